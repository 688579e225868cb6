"""Networks: the layers, blocks and whole architectures that Equinox lacks."""

from corollary.nn._alexnet import AlexNet
from corollary.nn._barron import StepNetwork, barron_approximation
from corollary.nn._batch_norm import BatchNorm, ConvNorm
from corollary.nn._bilinear import Bilinear
from corollary.nn._bptt import TimeGradient, bptt
from corollary.nn._channel_shuffle import channel_shuffle
from corollary.nn._cnn_classifier import ConvNet
from corollary.nn._complex_linear import ComplexLinear, wirtinger
from corollary.nn._conditioning import BlockConditioning, residual_conditioning
from corollary.nn._conv import Conv, conv
from corollary.nn._conv_arithmetic import conv_output_size, conv_transpose_output_size, same_padding
from corollary.nn._conv_spectral_norm import conv_spectral_norm
from corollary.nn._elman import ElmanCell
from corollary.nn._equivariance import Equivariance, check_equivariance
from corollary.nn._frequency_penalty import frequency_penalty
from corollary.nn._gate_memory import GateMemory, chrono_init, gate_memory
from corollary.nn._impulse_response import impulse_response
from corollary.nn._inception import GoogLeNet, Inception
from corollary.nn._invertible_resnet import InvertibleResNet
from corollary.nn._iterative_normalization import Whitening, iterative_normalization
from corollary.nn._lenet import LeNet
from corollary.nn._linear_regions import linear_regions, zaslavsky
from corollary.nn._lipschitz import LipschitzBounds, network_lipschitz
from corollary.nn._locally_connected import LocallyConnected, locally_connected
from corollary.nn._low_rank_layer import LowRankLinear, TTLinear, low_rank_layer, tt_linear
from corollary.nn._lru import LinearRecurrentUnit
from corollary.nn._mup import MupScaling, mup
from corollary.nn._orthogonal_rnn import OrthogonalCell, SpectralNormCell, orthogonal_matrix
from corollary.nn._parameter_count import LayerCost, flops, layer_cost, parameter_count
from corollary.nn._pool import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool, min_pool, softmax_pool
from corollary.nn._receptive_field import ReceptiveField, receptive_field, receptive_set
from corollary.nn._resnet import ResidualBlock, ResNet
from corollary.nn._rnn import GRU, LSTM, RNN
from corollary.nn._sequence_models import RecurrentForecaster, RecurrentNetwork
from corollary.nn._spectral_init import spectral_init, unit_variance
from corollary.nn._spectral_norm_penalty import spectral_decoupling, spectral_norm_penalty
from corollary.nn._spectral_scaling import SpectralScaling
from corollary.nn._tcn import TCN
from corollary.nn._text_cnn import TextCNN
from corollary.nn._unet import UNet, time_embedding
from corollary.nn._unitary_rnn import UnitaryCell, modrelu, real_features
from corollary.nn._vgg import VGG

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "TCN",
    "VGG",
    "AlexNet",
    "BatchNorm",
    "Bilinear",
    "BlockConditioning",
    "ComplexLinear",
    "Conv",
    "ConvNet",
    "ConvNorm",
    "ElmanCell",
    "Equivariance",
    "GateMemory",
    "GoogLeNet",
    "Inception",
    "InvertibleResNet",
    "LayerCost",
    "LeNet",
    "LinearRecurrentUnit",
    "LipschitzBounds",
    "LocallyConnected",
    "LowRankLinear",
    "MupScaling",
    "OrthogonalCell",
    "ReceptiveField",
    "RecurrentForecaster",
    "RecurrentNetwork",
    "ResNet",
    "ResidualBlock",
    "SpectralNormCell",
    "SpectralScaling",
    "StepNetwork",
    "TTLinear",
    "TextCNN",
    "TimeGradient",
    "UNet",
    "UnitaryCell",
    "Whitening",
    "adaptive_avg_pool",
    "avg_pool",
    "barron_approximation",
    "bptt",
    "channel_shuffle",
    "check_equivariance",
    "chrono_init",
    "conv",
    "conv_output_size",
    "conv_spectral_norm",
    "conv_transpose_output_size",
    "flops",
    "frequency_penalty",
    "gate_memory",
    "global_avg_pool",
    "impulse_response",
    "iterative_normalization",
    "layer_cost",
    "linear_regions",
    "locally_connected",
    "low_rank_layer",
    "max_pool",
    "min_pool",
    "modrelu",
    "mup",
    "network_lipschitz",
    "orthogonal_matrix",
    "parameter_count",
    "real_features",
    "receptive_field",
    "receptive_set",
    "residual_conditioning",
    "same_padding",
    "softmax_pool",
    "spectral_decoupling",
    "spectral_init",
    "spectral_norm_penalty",
    "time_embedding",
    "tt_linear",
    "unit_variance",
    "wirtinger",
    "zaslavsky",
]
