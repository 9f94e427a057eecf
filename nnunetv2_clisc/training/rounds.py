"""Self-training in one `nnUNetv2_train` call: round 1, relabelling with S3F, round 2 (paper 2.3).

Which stage a fold is in lives on disk, so the same command continues where it was stopped, on one GPU or several.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist

from dataset_conversion.errors import UserError, one_line_errors
from nnunetv2_clisc.running.parts import Part
from nnunetv2_clisc.training.checks import check_before_training
from nnunetv2_clisc.training.fold import FoldFolder, State, newest_checkpoint, origin_of, written_whole
from nnunetv2_clisc.training.plans import plain_values, read_checkpoint
from nnunetv2_clisc.training.relabel import Relabelling, prompted_sam
from nnunetv2_clisc.training.s3f import Segment, kept_cases
from pseudo_labeling.run.failures import CaseFailures
from pseudo_labeling.run.workspace import flair_channel
from pseudo_labeling.sam.segmenter import SamSegmenter
from pseudo_labeling.settings import Settings
from pseudo_labeling.weights.models import load_sam

PSEUDO_NOTE = (
    "CLISC: every Dice in this log compares with pseudo-labels, not with masks drawn by hand; "
    "use nnUNetv2_clisc evaluate for those."
)
# set to 1, training ends after round 1, so that `nnUNetv2_clisc relabel` can share S3F among processes
STOP_VARIABLE = "CLISC_STOP_AFTER_ROUND_1"
# set to 1, a finished fold of the same data is left as it is, and one of other data is moved aside and trained anew,
# with and without `--c`; for chains of jobs, where nobody is there to decide
ANEW_VARIABLE = "CLISC_ANEW_IF_CHANGED"


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
        with one_line_errors(self._fold_path or ""):
            state = self._enter()
            try:
                while not state.finished:
                    if _is_set(STOP_VARIABLE) and state.stage != "round_1":
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
            UserError: round 1 is not finished, or the data changed since; cases that failed; the others are
                done.
        """
        check_before_training(self)
        state = self.folder.read_state()
        if self.rounds != 2 or state is None or state.stage == "round_1" or not self.folder.final(1).is_file():
            raise UserError(
                f"{self.folder.path}: round 1 is not finished; run nnUNetv2_train with {STOP_VARIABLE}=1 first"
            )
        if state.origin != self.origin():
            raise UserError(f"{self.folder.path}: plans, dataset or split changed since round 1; train again first")
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
        if Path(filename).name == "checkpoint_latest.pth":
            self._save_if_best()
        self.logger.local_logger.my_fantastic_logging = plain_values(self.logger.get_checkpoint())
        self._best_ema = plain_values(self._best_ema)
        with written_whole(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def _save_if_best(self) -> None:
        """Write `checkpoint_best.pth` before `checkpoint_latest.pth` says that an epoch is done, where it is the best.

        nnU-Net writes it afterwards, so a kill between the two would lose the best network for good.
        """
        epochs = self.logger.get_checkpoint()["ema_fg_dice"]
        if epochs and (self._best_ema is None or epochs[-1] > self._best_ema):
            self._best_ema = epochs[-1]
            self.save_checkpoint(str(Path(self.output_folder, "checkpoint_best.pth")))

    def load_checkpoint(
        self,
        checkpoint: str | dict[str, Any] | None = None,
        *,
        filename_or_checkpoint: str | dict[str, Any] | None = None,
    ) -> None:
        """Load a checkpoint of this trainer, once it is known to hold nothing but tensors and plain values.

        Args:
            checkpoint: a file, or what was read from one.
            filename_or_checkpoint: the same under the name that nnU-Net gives it up to 2.8.
        """
        source = filename_or_checkpoint if checkpoint is None else checkpoint
        if source is None:
            raise TypeError("load_checkpoint: needs a file or its content")
        with one_line_errors():
            content = source if isinstance(source, dict) else read_checkpoint(source)
            place = "checkpoint" if isinstance(source, dict) else str(source)
            if (found := content["trainer_name"]) != self.__class__.__name__:
                raise UserError(f"{place}: a checkpoint of {found}; use -tr {found}")
            try:
                self._restore(content)
            except RuntimeError as error:
                if "state_dict" not in str(error):  # torch's word where it is given another network's weights
                    raise
                if _is_set(ANEW_VARIABLE) and (state := self.folder.read_state()) and state.origin != self.origin():
                    return  # plans of before: this fold is about to be trained anew
                raise UserError(
                    f"{place}: its network is not the one that plans and trainer describe now; run nnUNetv2_train "
                    "without --c to train anew, or restore the plans it was trained with"
                ) from error

    def _restore(self, content: dict[str, Any]) -> None:
        """Have nnU-Net take over the content that was checked, never what the file holds a moment later."""
        if "filename_or_checkpoint" not in inspect.signature(super().load_checkpoint).parameters:
            super().load_checkpoint(content)
            return
        # nnU-Net up to 2.8 fails on a dict (https://github.com/MIC-DKFZ/nnUNet/pull/3047), and would open the file
        # a second time, then with code in it
        if not self.was_initialized:
            self.initialize()
        self._plain_network().load_state_dict(content["network_weights"])
        self.optimizer.load_state_dict(content["optimizer_state"])
        if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.logger.load_checkpoint(content["logging"])
        self.my_init_kwargs = content["init_args"]
        self.current_epoch, self._best_ema = content["current_epoch"], content["_best_ema"]
        if "inference_allowed_mirroring_axes" in content:
            self.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]

    # ---- the rounds

    def _enter(self) -> State:
        """Decide on rank 0 whether to begin, resume or leave a finished fold alone; all ranks read the decision."""
        check_before_training(self)
        if self.local_rank == 0:
            self.folder.remove_partial()
            origin = self.origin()
            state = self.folder.read_state()
            if not self._resumable(state, origin):
                self._make_room()
                self.folder.write_state(State("round_1", origin))
            elif state is not None and not state.finished:
                self.print_to_log_file(f"CLISC: resuming this fold in stage {state.stage}")
        state = self._state()
        if state.finished:  # whatever nnU-Net has loaded before: what is validated next is this
            self.load_checkpoint(str(self.folder.final(self.rounds)))
        return state

    def _make_room(self) -> None:
        """Move an earlier training of this fold aside, all but what this run has begun to write."""
        aside = self.folder.make_room(keep=(Path(self.log_file).name, "wandb"))
        if aside is not None:
            self.print_to_log_file(f"CLISC: this fold held an earlier training; it is now in {aside}")

    def origin(self) -> str:
        """A digest of what this training depends on; a fold begun with another one is not continued."""
        return origin_of(
            self.plans_manager.plans, self.dataset_json, self.do_split(), self.num_epochs, self.rounds, self.use_s3f
        )

    def _resumable(self, state: State | None, origin: str) -> bool:
        """Whether to go on from `state`: always when unfinished, only with `--c` when finished.

        Raises:
            UserError: `--c` on a fold that cannot be continued.
        """
        place = self.folder.path
        anew = "run the same command without --c to train anew; what is in the fold is then moved aside, not deleted"
        if state is None:
            if self.continued and self.folder.final(self.rounds).is_file():
                raise UserError(f"{place}: holds a model without clisc_state.json, which cannot be continued; {anew}")
            return False
        if state.origin != origin:
            if self.continued and not _is_set(ANEW_VARIABLE):
                raise UserError(
                    f"{place}: cannot continue, the plans, the dataset, its labels or the split changed since this "
                    f"fold was begun; {anew}"
                )
            self.print_to_log_file("CLISC: plans, dataset, labels or split changed since the last run; beginning anew")
            return False
        if state.finished:
            return (self.continued or _is_set(ANEW_VARIABLE)) and self.folder.final(self.rounds).is_file()
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
        # else: begins with -pretrained_weights, which nnU-Net has loaded; with --c it has loaded other weights, if any
        if number > 1 or checkpoint is not None or self.continued or not self.was_initialized:
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
        elif self.local_rank == 0:  # nnU-Net was killed before it could remove what the final one replaces
            (folder / "checkpoint_latest.pth").unlink(missing_ok=True)

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
        self._plain_network().load_state_dict(read_checkpoint(path)["network_weights"])

    def _plain_network(self) -> torch.nn.Module:
        """The network without what DDP and torch.compile put around it."""
        network = self.network.module if self.is_ddp else self.network
        return cast(torch.nn.Module, getattr(network, "_orig_mod", network))

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
            raise UserError("nnUNet_results: not set; export it and run the command again")
        return FoldFolder(Path(self._fold_path), self.rounds)

    def barrier(self) -> None:
        """Wait for the other ranks."""
        if self.is_ddp:
            dist.barrier()

    def raw_scan(self, case: str) -> Path:
        """The file of a training scan that SAM is shown: its FLAIR channel."""
        name = self.plans_manager.dataset_name
        return self.raw_scans(case)[flair_channel(self.dataset_json, f"{name}/dataset.json")]

    def raw_scans(self, case: str) -> list[Path]:
        """The files of a training scan, one a channel."""
        if not nnUNet_raw.is_set():
            raise UserError("nnUNet_raw: not set; S3F reads the scans there, so export it and run the command again")
        ending = self.dataset_json["file_ending"]
        folder = Path(nnUNet_raw, self.plans_manager.dataset_name, "imagesTr")
        channels = range(len(self.dataset_json.get("channel_names") or (0,)))
        return [folder / f"{case}_{channel:04d}{ending}" for channel in channels]

    def _settings(self) -> Settings:
        return Settings.from_dict(self.dataset_json.get("clisc", {}).get("settings", {}))

    def sam_spec(self) -> str:
        """The SAM that made the pseudo-labels: a name or a file."""
        try:
            return str(self.dataset_json["clisc"]["weights"]["sam"]["spec"])
        except KeyError:
            name = self.plans_manager.dataset_name
            raise UserError(f"{name}/dataset.json: 'clisc' does not name the SAM; run pseudo_label again") from None

    def _state(self) -> State:
        self.barrier()
        state = self.folder.read_state()
        self.barrier()  # no rank may write the next state before all have read this one
        if state is None:
            raise UserError(f"{self.folder.path}: the state file was removed while training; train again")
        return state


def _is_set(variable: str) -> bool:
    """Whether an environment variable switches something on."""
    return os.environ.get(variable, "0") not in ("", "0")
