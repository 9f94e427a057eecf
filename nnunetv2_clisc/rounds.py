"""Self-training in one `nnUNetv2_train` call: round 1, relabelling with S3F, round 2 (paper 2.3).

Which stage a fold is in lives on disk, so the same command continues where it was stopped, on one GPU or several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist

from nnunetv2_clisc.errors import ClisError, one_line_errors
from nnunetv2_clisc.fold import FoldFolder, State, newest_checkpoint, origin_of
from nnunetv2_clisc.parts import Part
from nnunetv2_clisc.plans import plain_values, read_checkpoint
from nnunetv2_clisc.relabel import Relabelling, prompted_sam
from nnunetv2_clisc.s3f import Segment, kept_cases
from nnunetv2_clisc.training_checks import check_before_training
from pseudo_labeling.failures import CaseFailures
from pseudo_labeling.models import load_sam
from pseudo_labeling.sam import SamSegmenter
from pseudo_labeling.settings import Settings

PSEUDO_NOTE = (
    "CLISC: every Dice in this log compares with pseudo-labels, not with masks drawn by hand; "
    "use nnUNetv2_clisc evaluate for those."
)
# set to 1, training ends after round 1, so that `nnUNetv2_clisc relabel` can share S3F among processes
STOP_VARIABLE = "CLISC_STOP_AFTER_ROUND_1"


class SelfTraining(nnUNetTrainer):
    """An nnU-Net trainer that trains in rounds; how one round trains is nnU-Net's and the subclass's business."""

    rounds = 2
    use_s3f = True
    warm_start = False  # round 2 begins with the network of round 1 instead of a new one; the paper: "retrained"
    relabelling_step = 0.5  # of the patch, between the tiles of S3F's predictions; nnU-Net's default
    epochs = 400  # of each round
    min_iterations = 1  # of an epoch

    # nnU-Net sets these; it does not say of what type they are
    network: Any
    optimizer: Any
    lr_scheduler: Any
    loss: Any
    configuration_manager: Any
    was_initialized: bool
    oversample_foreground_percent: float
    _best_ema: float | None
    output_folder: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        self.continued = bool(plans.setdefault("continue_training", False))  # --c; nnU-Net takes it out of the plans
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.epochs
        self.save_every = 10
        self.round = 1
        self._split: tuple[list[str], list[str]] | None = None
        self._oversample = self.oversample_foreground_percent
        self._fold_path = self.output_folder  # self.output_folder moves with the round

    # ---- what nnU-Net asks for

    def run_training(self) -> None:
        """Train all rounds, from wherever an earlier call for this fold was stopped."""
        with one_line_errors():
            state = self._enter()
            try:
                while not state.finished:
                    if os.environ.get(STOP_VARIABLE, "0") != "0" and state.stage != "round_1":
                        self.print_to_log_file(f"CLISC: ends here, before {state.stage}, as {STOP_VARIABLE} says")
                        raise SystemExit(0)  # returning would make nnU-Net validate an unfinished fold
                    state = self._advance(state)
            finally:
                self.output_folder = self._fold_path

    def relabel_part(self, part: Part) -> list[str]:
        """Relabel a share of the fold's training cases; the next `nnUNetv2_train` does what is left and goes on.

        Returns:
            The cases of the share; none where S3F of this fold is finished.

        Raises:
            ClisError: round 1 is not finished, or the data changed since.
            PseudoLabelError: cases that failed; the others are done.
        """
        check_before_training(self)
        state = self.folder.read_state()
        if self.rounds != 2 or state is None or state.stage == "round_1" or not self.folder.final(1).is_file():
            raise ClisError(
                f"{self.folder.path}: round 1 is not finished; run nnUNetv2_train with {STOP_VARIABLE}=1 first"
            )
        if state.origin != self.origin():
            raise ClisError(f"{self.folder.path}: plans, dataset or split changed since round 1; train again first")
        if state.stage != "s3f":
            return []
        cases = part.share(self.do_split()[0])
        failures = CaseFailures()
        with self._between_rounds() as relabelling:
            relabelling.relabel(cases, failures)
        failures.check("relabel", len(cases))
        return cases

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold's cases, in one order for all ranks and rounds."""
        if self._split is None:
            train, val = super().do_split()
            self._split = sorted(train), sorted(val)
        return list(self._split[0]), list(self._split[1])

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """In round 2 the kept cases with their new labels; validation keeps the labels of the first pass."""
        train, val = super().get_tr_and_val_datasets()
        if self.round == 2:
            train = self.dataset_class(str(self.folder.training_files), kept_cases(self.folder.s3f))
        return train, val

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint whole or not at all, with plain numbers, so that it loads with `weights_only=True`."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        self.logger.local_logger.my_fantastic_logging = plain_values(self.logger.get_checkpoint())
        self._best_ema = plain_values(self._best_ema)
        temporary = f"{filename}.{os.getpid()}.tmp"
        super().save_checkpoint(temporary)
        os.replace(temporary, filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Load a checkpoint of this trainer, once it is known to hold nothing but tensors and plain values."""
        with one_line_errors():
            found = read_checkpoint(filename_or_checkpoint)["trainer_name"]
            if found != self.__class__.__name__:
                raise ClisError(f"{filename_or_checkpoint}: a checkpoint of {found}; use -tr {found}")
        super().load_checkpoint(filename_or_checkpoint)

    # ---- the rounds

    def _enter(self) -> State:
        """Decide on rank 0 whether to begin, resume or leave a finished fold alone; all ranks read the decision."""
        check_before_training(self)
        if self.local_rank == 0:
            origin = self.origin()
            state = self.folder.read_state()
            if state is None or not self._resumable(state, origin):
                self.folder.clear()
                self.folder.write_state(State("round_1", origin))
            elif not state.finished:
                self.print_to_log_file(f"CLISC: resuming this fold in stage {state.stage}")
        state = self._state()
        if state.finished and not self.was_initialized:
            self.load_checkpoint(str(self.folder.final(self.rounds)))
        return state

    def origin(self) -> str:
        """A digest of what this training depends on; a fold begun with another one is not continued."""
        return origin_of(
            self.plans_manager.plans, self.dataset_json, self.do_split(), self.num_epochs, self.rounds, self.use_s3f
        )

    def _resumable(self, state: State, origin: str) -> bool:
        """Whether to go on from `state`: always when unfinished, only with `--c` when finished."""
        if state.finished:
            return self.continued and self.folder.final(self.rounds).is_file()
        if state.origin != origin:
            if self.continued:
                raise ClisError(
                    f"{self.folder.path}: cannot continue, the plans, the dataset or the split changed since this fold "
                    "was begun; run the same command without --c to begin anew"
                )
            self.print_to_log_file("CLISC: plans, dataset or split changed since the last run; beginning anew")
            return False
        return state.stage == "round_1" or self.folder.final(1).is_file()

    def _advance(self, state: State) -> State:
        """Do what `state` names and return the state after it."""
        if state.stage == "s3f":
            self._relabel()
            following = "round_2"
        else:
            self._train_round(int(state.stage[-1]))
            following = "s3f" if self.rounds == 2 and state.stage == "round_1" else "done"
        if self.local_rank == 0:
            self.folder.write_state(State(following, state.origin))
        return self._state()

    def _train_round(self, number: int) -> None:
        folder = self.folder.round(number)
        folder.mkdir(parents=True, exist_ok=True)
        self.round, self.output_folder = number, str(folder)
        train, val = self.do_split()
        cases = kept_cases(self.folder.s3f) if number == 2 else train
        batch = self.configuration_manager.batch_size
        self.num_iterations_per_epoch = max(self.min_iterations, -(-len(cases) // batch))  # one pass over the cases
        self.num_val_iterations_per_epoch = -(-len(val) // batch)
        checkpoint = newest_checkpoint(folder)
        if number > 1 or checkpoint is not None or not self.was_initialized:  # else: begins with -pretrained_weights
            self._fresh_network(number)
        if number > 1 and checkpoint is None and self.warm_start:
            self._take_over_weights(self.folder.final(number - 1))
        self.print_to_log_file(f"CLISC: round {number} of {self.rounds}, {len(cases)} of {len(train)} training cases")
        if "clisc" in self.dataset_json:
            self.print_to_log_file(PSEUDO_NOTE)
        if checkpoint is not None:
            self.load_checkpoint(str(checkpoint))
            self.print_to_log_file(f"CLISC: {checkpoint.name} found, {self.current_epoch} epochs are done")
        if checkpoint != self.folder.final(number):
            super().run_training()

    def _fresh_network(self, number: int) -> None:
        """New network, optimiser, schedule and curves; nothing of an earlier round is left."""
        self.network = self.optimizer = self.lr_scheduler = self.loss = None
        self.dataloader_train = self.dataloader_val = None
        self.current_epoch, self._best_ema, self.was_initialized = 0, None, False
        self.oversample_foreground_percent = self._oversample  # initialize() splits it among the ranks
        self.logger.local_logger = LocalLogger()
        torch.manual_seed(self._settings().seed + number)
        self.initialize()

    def _take_over_weights(self, path: Path) -> None:
        """Begin with the weights of an earlier round; optimiser, schedule and curves stay new."""
        network = self.network.module if self.is_ddp else self.network
        getattr(network, "_orig_mod", network).load_state_dict(read_checkpoint(path)["network_weights"])

    def _relabel(self) -> None:
        self.print_to_log_file("CLISC: predicting the training cases" + (" and prompting SAM" if self.use_s3f else ""))
        with self._between_rounds() as relabelling:
            relabelling.run(self.do_split()[0])
        self.print_to_log_file(f"CLISC: similarities and dropped cases are in {self.folder.s3f}")

    @contextmanager
    def _between_rounds(self) -> Iterator[Relabelling]:
        """The network of round 1, ready to predict, and SAM."""
        if not self.was_initialized:
            self._fresh_network(1)
        if (final := self.folder.final(1)).is_file():
            self.load_checkpoint(str(final))
        self.set_deep_supervision_enabled(False)
        with self.inference_settings():
            segment = self.build_segmenter() if self.use_s3f else None
            yield Relabelling(self, self.folder, self._settings(), segment)
        self.set_deep_supervision_enabled(True)

    def inference_settings(self) -> AbstractContextManager[Any]:
        """How this trainer predicts; a subclass may predict with other settings than it trains with."""
        return nullcontext()

    def build_segmenter(self) -> Segment:
        """SAM with the weights and prompts that made the pseudo-labels."""
        sam = load_sam(self.sam_spec(), self.device)
        if sam.sha256 != self.dataset_json["clisc"]["weights"]["sam"].get("sha256"):
            self.print_to_log_file(f"CLISC: WARNING, {sam.name} is not the file that made the pseudo-labels")
        settings = self._settings()
        return prompted_sam(SamSegmenter(sam.model, settings.sam, self.device), settings)

    # ---- helpers

    @property
    def folder(self) -> FoldFolder:
        """The fold's output on disk."""
        if self._fold_path is None:
            raise ClisError("nnUNet_results: not set; export it and run the command again")
        return FoldFolder(Path(self._fold_path), self.rounds)

    def barrier(self) -> None:
        """Wait for the other ranks."""
        if self.is_ddp:
            dist.barrier()

    def raw_scan(self, case: str) -> Path:
        """The file of a training scan."""
        if not nnUNet_raw.is_set():
            raise ClisError("nnUNet_raw: not set; S3F reads the scans there, so export it and run the command again")
        ending = self.dataset_json["file_ending"]
        return Path(nnUNet_raw, self.plans_manager.dataset_name, "imagesTr", f"{case}_0000{ending}")

    def _settings(self) -> Settings:
        return Settings.from_dict(self.dataset_json.get("clisc", {}).get("settings", {}))

    def sam_spec(self) -> str:
        """The SAM that made the pseudo-labels: a name or a file."""
        try:
            return str(self.dataset_json["clisc"]["weights"]["sam"]["spec"])
        except KeyError:
            name = self.plans_manager.dataset_name
            raise ClisError(f"{name}/dataset.json: 'clisc' does not name the SAM; run pseudo_label again") from None

    def _state(self) -> State:
        self.barrier()
        state = self.folder.read_state()
        self.barrier()  # no rank may write the next state before all have read this one
        if state is None:
            raise ClisError(f"{self.folder.path}: the state file was removed while training; train again")
        return state
