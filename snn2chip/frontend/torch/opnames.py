"""Names of torch operations, by what they do to elements."""

from __future__ import annotations

from snn2chip.frontend.torch.recording import Call, names

CASTS = names(
    "float to type type_as contiguous clone detach cpu data get_data requires_grad_ double half bfloat16 bool int long "
    "short byte char"
)
MOVES = names(
    "view reshape flatten unflatten permute transpose unsqueeze squeeze unsqueeze_ squeeze_ expand repeat "
    "repeat_interleave __getitem__ select narrow stack cat concat concatenate vstack hstack chunk split "
    "tensor_split unbind movedim moveaxis swapaxes swapdims t get_T get_mT view_as reshape_as expand_as tile "
    "flip roll index_select __setitem__ copy_ broadcast_to ravel split_with_sizes unsafe_chunk unsafe_split "
    "dsplit adjoint pixel_shuffle pixel_unshuffle channel_shuffle interpolate"
)
DROPOUTS = names("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
ALIASES = {
    "iadd": "add", "add_": "add", "__add__": "add", "__radd__": "add", "isub": "sub", "sub_": "sub", "subtract": "sub",
    "__sub__": "sub", "__rsub__": "rsub", "imul": "mul", "mul_": "mul", "multiply": "mul", "__mul__": "mul",
    "__rmul__": "mul", "div_": "div", "idiv": "div", "itruediv": "div", "divide": "div", "true_divide": "div",
    "__truediv__": "div", "negative": "neg", "neg_": "neg", "__neg__": "neg", "mm": "matmul", "bmm": "matmul",
    "__matmul__": "matmul", "max_pool1d_with_indices": "max_pool1d", "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "relu_": "relu", "leaky_relu_": "leaky_relu", "abs_": "abs", "absolute": "abs", "masked_fill_": "masked_fill",
    "clamp_": "clamp", "clip": "clamp", "clip_": "clamp", "clamp_min_": "clamp_min", "clamp_max_": "clamp_max",
    "lerp_": "lerp", "addcmul_": "addcmul", "addcdiv_": "addcdiv", "pow_": "pow", "__pow__": "pow", "ipow": "pow",
    "exp_": "exp", "floor_": "floor", "ceil_": "ceil", "round_": "round", "sigmoid_": "sigmoid", "tanh_": "tanh",
    "special_expit": "sigmoid",
}  # fmt: skip
COMPARISONS = names("gt ge lt le heaviside sign __gt__ __ge__ __lt__ __le__ greater greater_equal less less_equal")

# What neurons are written with: a neuron's code is asked how it behaves, not read.
ELEMENTWISE = (
    COMPARISONS
    | CASTS
    | names(
        "add sub rsub mul div neg where clamp clamp_min clamp_max masked_fill abs pow square exp log sqrt rsqrt "
        "reciprocal relu leaky_relu sigmoid tanh softplus hardtanh hardsigmoid threshold floor ceil round trunc fmod "
        "remainder lerp addcmul addcdiv minimum maximum eq ne __eq__ __ne__ logical_not "
        "logical_and logical_or bitwise_not bitwise_and bitwise_or __invert__ __and__ __or__ zero_ fill_ sin cos"
    )
)


def computes_across(call: Call) -> bool:
    """Whether an operation's elements depend on more than the elements at their own place."""
    if call.name == "einsum":
        terms, out = einsum_terms(call)
        return out not in terms or not {*"".join(terms)} <= {*out}
    return translated(call) not in ELEMENTWISE


def einsum_terms(call: Call) -> tuple[list[str], str]:
    """The axes of an einsum's operands and of its result, by letters."""
    given, arrow, out = "".join(call.args[0].split()).partition("->")
    letters = given.replace(",", "")
    return given.split(","), out if arrow else "".join(sorted(c for c in {*letters} if letters.count(c) == 1))


def translated(call: Call) -> str:
    """An operation's name without regard to how it was written."""
    return ALIASES.get(call.name, call.name)


def only_moves(call: Call) -> bool:
    """Whether an operation computes nothing."""
    return call.name in MOVES or call.name in CASTS or call.name in DROPOUTS
