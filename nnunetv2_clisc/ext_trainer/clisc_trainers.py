from nnunetv2_clisc.training.distillation_trainer import (
    DistillationTrainer,
    DistillationTrainer_noContrast,
    DistillationTrainer_noFeature,
    DistillationTrainer_plain,
    DistillationTrainer_small,
    DistillationTrainer_small_noContrast,
    DistillationTrainer_small_noFeature,
    DistillationTrainer_small_plain,
)
from nnunetv2_clisc.training.sam_adapter_trainer import (
    CLISCTrainer_SamAdapter,
    CLISCTrainer_SamAdapter_small,
    SamAdapterTrainer,
    SamAdapterTrainer_noDepth,
    SamAdapterTrainer_noMirror,
    SamAdapterTrainer_random,
    SamAdapterTrainer_small,
    SamAdapterTrainer_small_noDepth,
    SamAdapterTrainer_small_noMirror,
    SamAdapterTrainer_small_random,
    SamAdapterTrainer_small_unet,
    SamAdapterTrainer_unet,
)
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
