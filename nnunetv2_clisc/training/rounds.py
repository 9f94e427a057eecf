"""Self-training in one `nnUNetv2_train` call: round 1, relabelling with S3F, round 2 (paper 2.3).

Which stage a fold is in lives on disk, so the same command continues where it was stopped, on one GPU or several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from dataset_conversion.errors import UserError, one_line_errors
from nnunetv2_clisc.training.checkpoints import read_checkpoint
from nnunetv2_clisc.training.checks import check_before_training
from nnunetv2_clisc.training.fold import FoldFolder, State, newest_checkpoint, origin_of
from nnunetv2_clisc.training.fold_data import FoldData
from nnunetv2_clisc.training.relabel import Ranks, Relabelling, first_pass_sam, predictor_of
from nnunetv2_clisc.training.s3f import Segment, kept_cases
from nnunetv2_clisc.training.safe_checkpoints import SafeCheckpoints

PSEUDO_NOTE = (
    "CLISC: every Dice in this log compares with pseudo-labels, not with masks drawn by hand; "
    "use nnUNetv2_clisc evaluate for those."
)
# set to 1, training ends after round 1, so that `nnUNetv2_clisc relabel` can share S3F among processes
STOP_VARIABLE = "CLISC_STOP_AFTER_ROUND_1"
# set to 1, a finished fold of the same data is left as it is, and one of other data is moved aside and trained anew,
# with and without `--c`; for chains of jobs, where nobody is there to decide
ANEW_VARIABLE = "CLISC_ANEW_IF_CHANGED"


class SelfTraining(SafeCheckpoints):
    """An nnU-Net trainer that trains in rounds; how one round trains is nnU-Net's and the subclass's business."""

    rounds = 2
    use_s3f = True
    warm_start = False  # round 2 begins with the network of round 1 instead of a new one; the paper: "retrained"
    relabelling_step = 0.5  # of the patch, between the tiles of S3F's predictions; nnU-Net's default
    epochs = 400  # of each round
    min_iterations = 1  # of an epoch

    # nnU-Net sets these; it does not say of what type they are
    lr_scheduler: Any
    loss: Any
    configuration_manager: Any
    oversample_foreground_percent: float

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

    def do_split(self) -> tuple[list[str], list[str]]:
        """The fold's cases, in one order for all ranks and rounds."""
        if self._split is None:
            train, val = super().do_split()
            self._split = sorted(train), sorted(val)
        return list(self._split[0]), list(self._split[1])

    def samples_of_epoch(self, cases: Sequence[str]) -> int:
        """How many patches of so many cases an epoch sees at least: one pass over the cases."""
        return len(cases)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """In round 2 the kept cases with their new labels; validation keeps the labels of the first pass."""
        train, val = super().get_tr_and_val_datasets()
        if self.round == 2:
            train = self.dataset_class(str(self.folder.training_files), kept_cases(self.folder.s3f))
        return train, val

    # ---- the rounds

    def _enter(self) -> State:
        """Decide on rank 0 whether to begin, resume or leave a finished fold alone; all ranks read the decision."""
        check_before_training(
            self.fold_data, rounds=self.rounds, use_s3f=self.use_s3f, compare_files=self.local_rank == 0
        )
        if self.local_rank == 0:
            self.folder.remove_partial()
            origin = self.origin()
            state = self.folder.read_state()
            if not self._resumable(state, origin):
                if (aside := self.folder.make_room(keep=(Path(self.log_file).name, "wandb"))) is not None:
                    self.print_to_log_file(f"CLISC: this fold held an earlier training; it is now in {aside}")
                self.folder.write_state(State("round_1", origin))
            elif state is not None and not state.finished:
                self.print_to_log_file(f"CLISC: resuming this fold in stage {state.stage}")
        state = self._state()
        if state.finished:  # whatever nnU-Net has loaded before: what is validated next is this
            self.load_checkpoint(str(self.folder.final(self.rounds)))
        return state

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

    def _is_to_train_anew(self) -> bool:
        state = self.folder.read_state() if _is_set(ANEW_VARIABLE) else None
        return state is not None and state.origin != self.origin()

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
        self.num_iterations_per_epoch = max(self.min_iterations, -(-self.samples_of_epoch(cases) // batch))
        self.num_val_iterations_per_epoch = -(-len(val) // batch)
        checkpoint = newest_checkpoint(folder)
        # else: begins with -pretrained_weights, which nnU-Net has loaded; with --c it has loaded other weights, if any
        if number > 1 or checkpoint is not None or self.continued or not self.was_initialized:
            self._fresh_network(number)
            if number == 1 and checkpoint is None:
                self.load_start()
        if number > 1 and checkpoint is None and self.warm_start:
            earlier = read_checkpoint(self.folder.final(number - 1))  # optimiser, schedule and curves stay new
            self._plain_network().load_state_dict(earlier["network_weights"])
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
        torch.manual_seed(self.fold_data.seed + number)
        self.initialize()

    def _relabel(self) -> None:
        self.print_to_log_file("CLISC: predicting the training cases" + (" and prompting SAM" if self.use_s3f else ""))
        with self.between_rounds() as relabelling:
            relabelling.run(self.do_split()[0])
        self.print_to_log_file(f"CLISC: similarities and dropped cases are in {self.folder.s3f}")

    @contextmanager
    def between_rounds(self) -> Iterator[Relabelling]:
        """The network of round 1, ready to predict, and SAM."""
        if not self.was_initialized:
            self._fresh_network(1)
        if (final := self.folder.final(1)).is_file():
            self.load_checkpoint(str(final))
        self.set_deep_supervision_enabled(False)
        with self.inference_settings():
            segment = self.build_segmenter() if self.use_s3f else None
            predictor = predictor_of(self, self.relabelling_step)
            yield Relabelling(self.fold_data, self.folder, predictor, segment, self._ranks)
        self.set_deep_supervision_enabled(True)

    def load_start(self) -> None:
        """Give the new network of round 1 the weights it begins with; a subclass may have some, this one has none."""

    def inference_settings(self) -> AbstractContextManager[Any]:
        """How this trainer predicts; a subclass may predict with other settings than it trains with."""
        return nullcontext()

    def build_segmenter(self) -> Segment:
        """SAM with the weights and prompts that made the pseudo-labels."""
        return first_pass_sam(self.fold_data, self.device)

    # ---- helpers

    @property
    def folder(self) -> FoldFolder:
        """The fold's output on disk."""
        if self._fold_path is None:
            raise UserError("nnUNet_results: not set; export it and run the command again")
        return FoldFolder(Path(self._fold_path), self.rounds)

    @property
    def fold_data(self) -> FoldData:
        """The fold's data, with this trainer's split."""
        return FoldData.of(self)

    @cached_property
    def _ranks(self) -> Ranks:
        return Ranks.of_training() if self.is_ddp else Ranks()

    def _state(self) -> State:
        self._ranks.barrier()
        state = self.folder.read_state()
        self._ranks.barrier()  # no rank may write the next state before all have read this one
        if state is None:
            raise UserError(f"{self.folder.path}: the state file was removed while training; train again")
        return state


def _is_set(variable: str) -> bool:
    """Whether an environment variable switches something on."""
    return os.environ.get(variable, "0") not in ("", "0")
