"""Training: one crash-only trainer, feeds, precision, parallelism, and the laws of scale."""

from corollary.train._augmentation import (
    augment,
    colour_covariance,
    colour_jitter,
    flip,
    pca_jitter,
    random_crop,
    random_flip,
)
from corollary.train._averaging import ExponentialAverage, TailAverage
from corollary.train._batch_scaling import BatchLaw, fit_batch_law
from corollary.train._batch_warmup import BatchPhase, BatchPlan, batch_warmup
from corollary.train._checkpoint import Checkpoints, CheckpointWarning
from corollary.train._critical_batch import critical_batch_size, noisy_quadratic
from corollary.train._delayed_update import DelayedUpdateState, delayed_updates
from corollary.train._distillation import distillation_loss
from corollary.train._early_stopping import (
    EarlyStopping,
    GeneralizationLoss,
    StoppingRule,
    SuccessiveRises,
    TargetReached,
    Verdict,
)
from corollary.train._feed import ArrayFeed, Feed, GeneratedFeed, StreamFeed
from corollary.train._finder import find_learning_rate
from corollary.train._fp8 import DelayedScale, fp8, fp8_scale, quantize_fp8
from corollary.train._frequency_curriculum import FourierFeatures, frequency_curriculum, low_pass
from corollary.train._layer_health import LayerNorms, effective_rank, effective_ranks, layer_norms
from corollary.train._loop import Event
from corollary.train._loss_scale import DynamicScale, StaticScale, unscale
from corollary.train._lr_batch import ScaledSettings, scale_learning_rate
from corollary.train._metrics import CSVLog, JSONLog, Log, TensorBoardLog
from corollary.train._noise_scale import NoiseScale, gradient_noise_scale
from corollary.train._plateau import Plateau, find_plateau
from corollary.train._policy import Policy
from corollary.train._pruning import keep_pruned, prune
from corollary.train._rounding_depth import rounding_depth
from corollary.train._scaling_law import ScalingLaw, fit_scaling_law
from corollary.train._sharpness import sharpness
from corollary.train._state import TrainState
from corollary.train._trainer import Trainer
from corollary.train._vital_signs import VitalSigns
from corollary.train.estimators._autoencoder import Autoencoder
from corollary.train.estimators._images import ConvNetClassifier, ResNetClassifier
from corollary.train.estimators._mlp import MLPClassifier, MLPRegressor
from corollary.train.estimators._sequences import SequenceClassifier, SequenceForecaster, windows
from corollary.train.parallel._activation_offload import ActivationPlan, plan_activations
from corollary.train.parallel._asynchronous import asynchronous_sgd, delay_stability
from corollary.train.parallel._communication import Collective, communication_model, count_collectives, ring_bytes
from corollary.train.parallel._diloco import DiLoCo, DiLoCoState
from corollary.train.parallel._fsdp import fsdp, zero_memory
from corollary.train.parallel._layout import Layout, bytes_per_device, data_parallel
from corollary.train.parallel._local_sgd import local_sgd, local_sgd_drift
from corollary.train.parallel._mesh_parallel import mesh_parallel, rank_mapping
from corollary.train.parallel._optimizer_offload import offload_optimizer
from corollary.train.parallel._pipeline import Schedule, pipeline_loss, pipeline_schedule
from corollary.train.parallel._step import pad_batch, sharded_step
from corollary.train.parallel._tensor_parallel import tensor_parallel

__all__ = [
    "ActivationPlan",
    "ArrayFeed",
    "Autoencoder",
    "BatchLaw",
    "BatchPhase",
    "BatchPlan",
    "CSVLog",
    "CheckpointWarning",
    "Checkpoints",
    "Collective",
    "ConvNetClassifier",
    "DelayedScale",
    "DelayedUpdateState",
    "DiLoCo",
    "DiLoCoState",
    "DynamicScale",
    "EarlyStopping",
    "Event",
    "ExponentialAverage",
    "Feed",
    "FourierFeatures",
    "GeneralizationLoss",
    "GeneratedFeed",
    "JSONLog",
    "LayerNorms",
    "Layout",
    "Log",
    "MLPClassifier",
    "MLPRegressor",
    "NoiseScale",
    "Plateau",
    "Policy",
    "ResNetClassifier",
    "ScaledSettings",
    "ScalingLaw",
    "Schedule",
    "SequenceClassifier",
    "SequenceForecaster",
    "StaticScale",
    "StoppingRule",
    "StreamFeed",
    "SuccessiveRises",
    "TailAverage",
    "TargetReached",
    "TensorBoardLog",
    "TrainState",
    "Trainer",
    "Verdict",
    "VitalSigns",
    "asynchronous_sgd",
    "augment",
    "batch_warmup",
    "bytes_per_device",
    "colour_covariance",
    "colour_jitter",
    "communication_model",
    "count_collectives",
    "critical_batch_size",
    "data_parallel",
    "delay_stability",
    "delayed_updates",
    "distillation_loss",
    "effective_rank",
    "effective_ranks",
    "find_learning_rate",
    "find_plateau",
    "fit_batch_law",
    "fit_scaling_law",
    "flip",
    "fp8",
    "fp8_scale",
    "frequency_curriculum",
    "fsdp",
    "gradient_noise_scale",
    "keep_pruned",
    "layer_norms",
    "local_sgd",
    "local_sgd_drift",
    "low_pass",
    "mesh_parallel",
    "noisy_quadratic",
    "offload_optimizer",
    "pad_batch",
    "pca_jitter",
    "pipeline_loss",
    "pipeline_schedule",
    "plan_activations",
    "prune",
    "quantize_fp8",
    "random_crop",
    "random_flip",
    "rank_mapping",
    "ring_bytes",
    "rounding_depth",
    "scale_learning_rate",
    "sharded_step",
    "sharpness",
    "tensor_parallel",
    "unscale",
    "windows",
    "zero_memory",
]
