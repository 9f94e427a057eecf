from nnunetv2_clisc.training.trainer import (
    CLISCTrainer,
    CLISCTrainer_noS3F,
    CLISCTrainer_noSelfTraining,
    CLISCTrainer_small,
    CLISCTrainer_small_noS3F,
    CLISCTrainer_small_noSelfTraining,
    CLISCTrainer_small_noSelfTraining_scratch,
    CLISCTrainer_small_scratch,
)
