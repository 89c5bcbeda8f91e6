"""What functions, methods, and names of PyTorch and its users mean to the graph of a tensor."""

from __future__ import annotations

import re

from memprof.lint.values import MODULE, UNKNOWN, Kind, Value


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLAIN_METHODS = _words(
    "item tolist numpy size dim ndimension numel nelement data_ptr element_size stride storage_offset get_device "
    "is_contiguous is_floating_point is_complex type storage untyped_storage requires_grad_ register_hook backward "
    "retain_grad __len__ __bool__"
)
"""Methods of a tensor that give no tensor."""

DETACHING_METHODS = _words(
    "detach detach_ argmax argmin argsort eq ne gt lt ge le greater less bool long int short byte nonzero isnan isinf "
    "isfinite sign any all histc bincount unique count_nonzero logical_and logical_or logical_not new_zeros new_ones "
    "new_tensor new_full new_empty floor ceil round multinomial bernoulli"
)
"""Methods of a tensor, and functions of torch, whose result has no graph."""

DIFFERENTIABLE_METHODS = _words(
    "abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint amax amin aminmax angle arccos "
    "arccosh arcsin arcsinh arctan arctan2 arctanh as_strided asin asinh atan atan2 atanh baddbmm bfloat16 bmm "
    "broadcast_to cdouble cfloat chalf cholesky chunk clamp clamp_max clamp_min clip clone contiguous copy copysign "
    "corrcoef cos cosh cov cpu cross cuda cummax cummin cumprod cumsum deg2rad det diag diag_embed diagflat diagonal "
    "diff div divide dot double dsplit erf erfc erfinv exp exp2 expand expand_as expm1 fill flatten flip fliplr "
    "flipud float fmax fmin fmod gather ger half hardshrink hsplit hypot index_add index_copy index_fill index_put "
    "index_select inner inverse kron kthvalue lerp lgamma log log10 log1p log2 log_softmax logaddexp logcumsumexp "
    "logdet logit logsumexp masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max maximum mean "
    "median min minimum mm mode moveaxis movedim msort mul multiply mv nan_to_num nanmean nanmedian nanquantile "
    "nansum narrow neg negative norm outer permute pinverse pow prelu prod quantile rad2deg ravel reciprocal relu "
    "remainder renorm repeat repeat_interleave reshape reshape_as resize roll rot90 rsqrt scatter scatter_add "
    "scatter_reduce select sigmoid sin sinc sinh slogdet softmax sort split split_with_sizes sqrt square squeeze std "
    "sub subtract sum sum_to_size svd swapaxes swapdims t take take_along_dim tan tanh tensor_split tile to to_dense "
    "to_sparse topk trace transpose tril triu true_divide trunc type_as unbind unflatten unfold unsqueeze var vdot "
    "view view_as vsplit where xlogy zero"
)
"""Methods of a tensor whose result has a graph, without the `_` of those in place.

Source:
    `torch.Tensor`, torch 2.13.0.
"""

PAIR_METHODS = _words("max min topk sort median mode kthvalue cummax cummin")
"""With a dimension they give values, with a graph, and indices, without."""

REDUCTIONS = _words("mean sum norm std var prod max min logsumexp median nanmean")
"""Without a dimension they give one element."""

FACTORIES = _words(
    "tensor as_tensor from_numpy zeros ones full empty rand randn randint randperm arange linspace logspace eye "
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like normal bernoulli tril_indices "
    "triu_indices one_hot complex get_rng_state Tensor FloatTensor DoubleTensor HalfTensor LongTensor IntTensor "
    "ShortTensor ByteTensor CharTensor BoolTensor"
)
"""Functions of torch that make a tensor without a graph."""

PLAIN_FUNCTIONS = _words(
    "float int str bool len repr round format print isinstance issubclass hasattr id hash type ord chr abs range open "
    "input divmod vars dir callable"
)
"""Builtins that give no tensor; `abs` and `round` of one are looked at before."""

PASSING_FUNCTIONS = _words(
    "torch.compile torch.jit.script torch.jit.trace torch.nn.DataParallel torch.nn.parallel.DataParallel "
    "torch.nn.parallel.DistributedDataParallel torch.distributed.fsdp.FullyShardedDataParallel copy.deepcopy copy.copy "
    "torch.nn.utils.spectral_norm torch.nn.utils.weight_norm torch.nn.utils.parametrizations.spectral_norm "
    "torch.nn.SyncBatchNorm.convert_sync_batchnorm typing.cast"
)
"""Functions that give their first argument, or what stands for it."""

WITHOUT_PARAMETERS = _words(
    "ReLU ReLU6 LeakyReLU Sigmoid Tanh Softmax LogSoftmax Softplus GELU SiLU Mish ELU SELU CELU Hardtanh Hardswish "
    "Hardsigmoid Dropout Dropout1d Dropout2d Dropout3d MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d "
    "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d "
    "Flatten Unflatten Identity Upsample UpsamplingNearest2d UpsamplingBilinear2d ZeroPad2d ReflectionPad2d "
    "PixelShuffle ReplicationPad2d CosineSimilarity PairwiseDistance Fold Unfold"
)
"""Layers of torch.nn that have no parameters."""

MODULE_CONTAINERS = _words("Sequential ModuleList ModuleDict")
"""Classes of torch.nn that are made of other modules."""

GRAD_SWITCHES = {
    "torch.no_grad": False,
    "torch.inference_mode": False,
    "torch.enable_grad": True,
    "torch.set_grad_enabled": None,
}
"""Context managers and decorators that switch autograd; None: as their argument says."""

FRAMEWORK_EVALUATION = _words(
    "validation_step test_step predict_step validation_epoch_end test_epoch_end on_validation_epoch_end "
    "on_test_epoch_end on_validation_batch_end on_test_batch_end prediction_step"
)
"""Methods that trainers call with autograd off."""

FRAMEWORK_STEPS = _words("training_step optimizer_step train_step closure")
"""Methods that trainers call once an iteration."""

STORING_METHODS = _words("append appendleft add insert put put_nowait push")
"""Methods that store their last argument."""

EXTENDING_METHODS = _words("extend extendleft update")
"""Methods that store what their argument holds."""

CLEARING_METHODS = _words("clear pop popleft popitem get get_nowait remove")
"""Methods after which a container holds less."""

_MODULE_NAME = re.compile(
    r"(?:.*_)?(?:model|net|network|backbone)(?:_?[a-z0-9]{0,2})?"
    r"|(?:(?:image|text|audio|video|vision|visual|language|feature|query|key|momentum|target|online|ema)_)?"
    r"(?:encoder|decoder|generator|discriminator|classifier|teacher|student|policy|actor|critic|resnet|unet|vgg"
    r"|transformer|lstm|gru|rnn|cnn|mlp|autoencoder|vae)(?:_?[a-z0-9]{0,2})?"
    r"|(?:net|model)_?[A-Z]\w*|[GD]|[GD]_[A-Za-z]\w*"
)
_MAKER_NAME = re.compile(
    r"(?:get|build|make|create|load|save|init|setup|select|unwrap|update|wrap|prepare|cls|class)_\w+"
)
"""Functions and classes that have to do with a model, and are none."""

_LOSS_NAME = re.compile(r"(?:.*_)?(?:criterion|criteria|loss_?fn|loss_?func|loss_?function)(?:_?\w{0,4})?")
_OPTIMIZER_NAME = re.compile(r"(?:.*_)?(?:optimizer|optim|opt)(?:_?[A-Za-z0-9]{0,4})?")
_LOADER_NAME = re.compile(r"(?:.*_)?(?:data_?loader|loader|dl|batches)(?:_?\w{0,5})?")

BATCH = Value(Kind.TENSOR, host=True, output=True, guess=True)
"""What a loader gives: tensors in host memory, in any structure."""


def guess(name: str) -> Value:
    """What a name usually stands for where its origin is not known."""
    if _MAKER_NAME.fullmatch(name):
        return UNKNOWN
    if _LOSS_NAME.fullmatch(name):
        return Value(Kind.MODULE, loss=True, guess=True, frozen=True)
    if _OPTIMIZER_NAME.fullmatch(name):
        return Value(Kind.OPTIMIZER, guess=True)
    if _LOADER_NAME.fullmatch(name):
        return Value(Kind.LOADER, element=BATCH, guess=True)
    if _MODULE_NAME.fullmatch(name):
        return Value(Kind.MODULE, guess=True)
    return UNKNOWN


_EVALUATION_NAME = re.compile(
    r"(?:.*_)?(?:evaluate|evaluation|validate|validation|infer|inference|predict)(?:_\w+)?|(?:do_|run_)?(?:eval|val|valid|test)"
    r"(?:_(?:epoch|loop|model|network|net|one_epoch|step|pass|fn|batch))?|(?:eval|val|valid)_\w+"
)


def names_evaluation(function: str) -> bool:
    """Whether a function is called as those that evaluate a model."""
    return _EVALUATION_NAME.fullmatch(function.lower()) is not None


def of_annotation(name: str) -> Value | None:
    """What an annotation, as a dotted name, says of a parameter; None where it leaves it open."""
    last = name.rpartition(".")[2]
    if name in ("torch.nn.Module", "nn.Module"):
        return MODULE
    if name.startswith("torch.nn.") and last[:1].isupper():
        return layer(last)
    if last == "DataLoader":
        return Value(Kind.LOADER, element=BATCH)
    if last == "Optimizer" or name.startswith("torch.optim."):
        return Value(Kind.OPTIMIZER)
    if name in ("float", "int", "str", "bool", "bytes"):
        return Value(Kind.PLAIN)
    return UNKNOWN if last in _OTHER_TYPES else None


_OTHER_TYPES = _words(
    "Callable dict list tuple set type Dict List Tuple Set Type Mapping Sequence Iterable Iterator Path Namespace"
)


def layer(name: str) -> Value:
    """What a class of torch.nn, by its last name, makes."""
    if name.endswith("Loss"):
        return Value(Kind.MODULE, loss=True, frozen=True)
    return Value(Kind.MODULE, frozen=name in WITHOUT_PARAMETERS)
