"""Cells of LSTM and GRU that CUDA runs as one kernel and the CPU does not have.

Source:
    aten/src/ATen/native/cuda/RNN.cu, torch 2.14.1: outputs, and what the workspaces hold.
"""

from __future__ import annotations

from typing import Any

import torch

Arguments = tuple[Any, ...]
Named = dict[str, Any]


def _given(args: Arguments, at: int) -> Any:
    return args[at] if len(args) > at else None


def lstm_cell(args: Arguments, kwargs: Named) -> Any:
    """`_thnn_fused_lstm_cell(input_gates, hidden_gates, cx, input_bias, hidden_bias) -> (hy, cy, workspace)`."""
    gates = args[0] + args[1]
    for bias in (_given(args, 3), _given(args, 4)):
        if bias is not None:
            gates += bias
    taken, forgotten, candidate, shown = gates.chunk(4, 1)
    workspace = torch.cat([taken.sigmoid(), forgotten.sigmoid(), candidate.tanh(), shown.sigmoid()], 1)
    taken, forgotten, candidate, shown = workspace.chunk(4, 1)
    cell = forgotten * args[2] + taken * candidate
    return shown * cell.tanh(), cell, workspace


def lstm_cell_backward(args: Arguments, kwargs: Named) -> Any:
    """`..._backward_impl(grad_hy, grad_cy, cx, cy, workspace, has_bias) -> (grad_gates, grad_cx, grad_bias)`."""
    grad_hidden, grad_cell, before, after, workspace, has_bias = args
    taken, forgotten, candidate, shown = workspace.chunk(4, 1)
    squashed = after.tanh()
    total = torch.zeros_like(after) if grad_cell is None else grad_cell.clone()
    grad_shown = torch.zeros_like(after)
    if grad_hidden is not None:
        grad_shown = grad_hidden * squashed
        total += grad_hidden * shown * (1 - squashed * squashed)
    grads = torch.cat(
        [
            total * candidate * (1 - taken) * taken,
            total * before * (1 - forgotten) * forgotten,
            total * taken * (1 - candidate * candidate),
            grad_shown * (1 - shown) * shown,
        ],
        1,
    )
    return grads, total * forgotten, grads.sum(0) if has_bias else None


def gru_cell(args: Arguments, kwargs: Named) -> Any:
    """`_thnn_fused_gru_cell(input_gates, hidden_gates, hx, input_bias, hidden_bias) -> (hy, workspace)`."""
    from_input, from_hidden, hidden = args[:3]
    input_bias, hidden_bias = _given(args, 3), _given(args, 4)
    if input_bias is not None:
        from_input, from_hidden = from_input + input_bias, from_hidden + hidden_bias
    input_reset, input_update, input_new = from_input.chunk(3, 1)
    hidden_reset, hidden_update, hidden_new = from_hidden.chunk(3, 1)
    reset = (input_reset + hidden_reset).sigmoid()
    update = (input_update + hidden_update).sigmoid()
    new = (input_new + reset * hidden_new).tanh()
    return new + update * (hidden - new), torch.cat([reset, update, new, hidden, hidden_new], 1)


def gru_cell_backward(args: Arguments, kwargs: Named) -> Any:
    """`..._backward(grad_hy, workspace, has_bias)`: gradients of both gates, of `hx` and of both biases."""
    grad, workspace, has_bias = args
    reset, update, new, hidden, hidden_new = workspace.chunk(5, 1)
    grad_update = grad * (hidden - new) * (1 - update) * update
    grad_new = grad * (1 - update) * (1 - new * new)
    grad_reset = grad_new * hidden_new * (1 - reset) * reset
    from_input = torch.cat([grad_reset, grad_update, grad_new], 1)
    from_hidden = torch.cat([grad_reset, grad_update, grad_new * reset], 1)
    biases = (from_input.sum(0), from_hidden.sum(0)) if has_bias else (None, None)
    return from_input, from_hidden, grad * update, *biases
