"""Optimizers for networks: the Optax transformations that Optax lacks."""

from corollary.optim.transforms._adafisher import AdaFisherState, adafisher
from corollary.optim.transforms._adahessian import AdaHessianState, adahessian
from corollary.optim.transforms._advisor import Recommendation, recommend_optimizer
from corollary.optim.transforms._averaging import averaged_params, refresh_statistics, weight_average
from corollary.optim.transforms._barzilai_borwein import barzilai_borwein
from corollary.optim.transforms._capture import capture_statistics
from corollary.optim.transforms._compressed import compressed_gradient, quantize, scaled_sign, top_k
from corollary.optim.transforms._decay_prox import weight_decay_prox
from corollary.optim.transforms._diloco_outer import diloco, diloco_outer, outer_gradient
from corollary.optim.transforms._ekfac import ekfac
from corollary.optim.transforms._friendly_sam import friendly_sam
from corollary.optim.transforms._hessian_diagonal import gauss_newton_bartlett
from corollary.optim.transforms._hyperparameter_transfer import TransferredSettings, transfer_hyperparameters
from corollary.optim.transforms._kfac import KFacState, kfac
from corollary.optim.transforms._kfac_layers import LayerRule, check_layers, register_layer
from corollary.optim.transforms._learned_yogi import learned_yogi
from corollary.optim.transforms._lion_curvature import curvature_scaled_lion
from corollary.optim.transforms._local_rate import adam_rmsprop_local_rate
from corollary.optim.transforms._mars import mars, mars_correction
from corollary.optim.transforms._mnsam import mnsam
from corollary.optim.transforms._momentum_sam import momentum_sam, momentum_sam_params
from corollary.optim.transforms._monitor import grad_norm_monitor
from corollary.optim.transforms._muon import MuonState, muon, scale_by_muon
from corollary.optim.transforms._newton_schulz import orthogonalise
from corollary.optim.transforms._norm_loss import norm_loss
from corollary.optim.transforms._pid import pid, pid_poles
from corollary.optim.transforms._positive_negative_momentum import (
    positive_negative_momentum,
    scale_by_positive_negative_momentum,
)
from corollary.optim.transforms._presets import PRESETS, Preset, preset, preset_schedule
from corollary.optim.transforms._ranger import ranger
from corollary.optim.transforms._ranger21 import ranger21
from corollary.optim.transforms._registry import (
    OPTIMIZERS,
    OptimizerCost,
    OptimizerEntry,
    available_optimizers,
    optimizer,
    optimizer_cost,
    with_hyperparameters,
)
from corollary.optim.transforms._rlion import refined_lion
from corollary.optim.transforms._sam import sam
from corollary.optim.transforms._sassha import SasshaState, sassha
from corollary.optim.transforms._schedules import (
    ScheduleSums,
    batch_size_schedule,
    inverse_time_decay,
    power_schedule,
    schedule_sums,
    smith_one_cycle,
    warmdown_schedule,
    wsd_schedule,
)
from corollary.optim.transforms._shampoo import ShampooState, scale_by_shampoo, shampoo
from corollary.optim.transforms._sharded_preconditioner import ShardedState, sharded_inverse_roots, sharded_shampoo
from corollary.optim.transforms._soap import SoapState, scale_by_soap, soap
from corollary.optim.transforms._stable_weight_decay import stable_weight_decay
from corollary.optim.transforms._switch import second_to_first_switch
from corollary.optim.transforms._timescale import adamw_timescale
from corollary.optim.transforms._transform import float32_state
from corollary.optim.transforms._unified_sam import unified_sam
from corollary.optim.transforms._variance_reduced import saga, svrg
from corollary.optim.transforms._warmup import radam_rectification, warmup_length
from corollary.optim.transforms._zsharp import zsharp

__all__ = [
    "OPTIMIZERS",
    "PRESETS",
    "AdaFisherState",
    "AdaHessianState",
    "KFacState",
    "LayerRule",
    "MuonState",
    "OptimizerCost",
    "OptimizerEntry",
    "Preset",
    "Recommendation",
    "SasshaState",
    "ScheduleSums",
    "ShampooState",
    "ShardedState",
    "SoapState",
    "TransferredSettings",
    "adafisher",
    "adahessian",
    "adam_rmsprop_local_rate",
    "adamw_timescale",
    "available_optimizers",
    "averaged_params",
    "barzilai_borwein",
    "batch_size_schedule",
    "capture_statistics",
    "check_layers",
    "compressed_gradient",
    "curvature_scaled_lion",
    "diloco",
    "diloco_outer",
    "ekfac",
    "float32_state",
    "friendly_sam",
    "gauss_newton_bartlett",
    "grad_norm_monitor",
    "inverse_time_decay",
    "kfac",
    "learned_yogi",
    "mars",
    "mars_correction",
    "mnsam",
    "momentum_sam",
    "momentum_sam_params",
    "muon",
    "norm_loss",
    "optimizer",
    "optimizer_cost",
    "orthogonalise",
    "outer_gradient",
    "pid",
    "pid_poles",
    "positive_negative_momentum",
    "power_schedule",
    "preset",
    "preset_schedule",
    "quantize",
    "radam_rectification",
    "ranger",
    "ranger21",
    "recommend_optimizer",
    "refined_lion",
    "refresh_statistics",
    "register_layer",
    "saga",
    "sam",
    "sassha",
    "scale_by_muon",
    "scale_by_positive_negative_momentum",
    "scale_by_shampoo",
    "scale_by_soap",
    "scaled_sign",
    "schedule_sums",
    "second_to_first_switch",
    "shampoo",
    "sharded_inverse_roots",
    "sharded_shampoo",
    "smith_one_cycle",
    "soap",
    "stable_weight_decay",
    "svrg",
    "top_k",
    "transfer_hyperparameters",
    "unified_sam",
    "warmdown_schedule",
    "warmup_length",
    "weight_average",
    "weight_decay_prox",
    "with_hyperparameters",
    "wsd_schedule",
    "zsharp",
]
