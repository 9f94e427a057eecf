"""The data of one fold: as nnU-Net planned, preprocessed and split them, and the scans that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from dataset_conversion.errors import UserError
from pseudo_labeling.run.workspace import flair_channel, shows_pictures
from pseudo_labeling.settings import Settings


@dataclass(frozen=True)
class FoldData:
    """What the stages around a training need to know of its data; `log` writes a line into the training's log."""

    plans: PlansManager
    configuration_name: str
    configuration: ConfigurationManager
    labels: LabelManager
    dataset_json: dict[str, Any]
    folder: Path  # of the dataset, below nnUNet_preprocessed
    fold: int | str
    train: list[str]
    val: list[str]
    log: Callable[[str], None]

    @classmethod
    def of(cls, trainer: nnUNetTrainer) -> FoldData:
        """What nnU-Net's trainer has found out about its data.

        Raises:
            UserError: nnUNet_preprocessed is not set.
        """
        if trainer.preprocessed_dataset_folder_base is None:
            raise UserError("nnUNet_preprocessed: not set; export it and run the command again")
        train, val = trainer.do_split()
        return cls(
            plans=trainer.plans_manager,
            configuration_name=trainer.configuration_name,
            configuration=trainer.configuration_manager,
            labels=trainer.label_manager,
            dataset_json=trainer.dataset_json,
            folder=Path(trainer.preprocessed_dataset_folder_base),
            fold=trainer.fold,
            train=train,
            val=val,
            log=trainer.print_to_log_file,
        )

    @property
    def name(self) -> str:
        """`Dataset501_MyScans`."""
        return str(self.plans.dataset_name)

    @property
    def number(self) -> int:
        """What `-d` takes."""
        return int(self.name[7:10])

    @property
    def ending(self) -> str:
        return str(self.dataset_json["file_ending"])

    @property
    def cases_folder(self) -> Path:
        """The cases as this configuration preprocessed them."""
        return self.folder / str(self.configuration.data_identifier)

    @property
    def raw(self) -> Path | None:
        """The raw dataset; None where `nnUNet_raw` is not set."""
        return Path(nnUNet_raw, self.name) if nnUNet_raw.is_set() else None

    @property
    def settings(self) -> Settings:
        """The settings that the labels were made with."""
        return Settings.from_dict(self.dataset_json.get("clisc", {}).get("settings", {}))

    @property
    def seed(self) -> int:
        """Of new networks: that of the labels, or on a dataset with masks of its own `seed` in its dataset.json."""
        return self.settings.seed if "clisc" in self.dataset_json else int(self.dataset_json.get("seed", 0))

    @property
    def sam_spec(self) -> str:
        """The SAM that made the pseudo-labels: a name or a file."""
        try:
            return str(self.dataset_json["clisc"]["weights"]["sam"]["spec"])
        except KeyError:
            raise UserError(
                f"{self.name}/dataset.json: 'clisc' does not name the SAM; run pseudo_label again"
            ) from None

    @property
    def preprocess_command(self) -> str:
        """What a user types to preprocess the dataset for this training; planning copies `dataset.json`."""
        command = f"nnUNetv2_plan_and_preprocess -d {self.number} -c {self.configuration_name}"
        plans = self.plans.plans_name
        return command if plans == "nnUNetPlans" else f"{command} (with the flags that made {plans})"

    def shown(self, case: str) -> list[Path]:
        """The files of a training case that SAM is shown: a scan's FLAIR channel, or all channels of a picture."""
        files = self.raw_scans(case)
        if shows_pictures(self.dataset_json):
            return files
        return [files[flair_channel(self.dataset_json, f"{self.name}/dataset.json")]]

    def raw_scans(self, case: str) -> list[Path]:
        """The files of a training scan, one a channel."""
        if self.raw is None:
            raise UserError("nnUNet_raw: not set; S3F reads the scans there, so export it and run the command again")
        channels = range(len(self.dataset_json.get("channel_names") or (0,)))
        return [self.raw / "imagesTr" / f"{case}_{channel:04d}{self.ending}" for channel in channels]
