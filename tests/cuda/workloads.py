"""Training workloads that run alike on the CPU, on a CUDA device (also the null one) and on fake tensors.

Each is a generator function of one argument, the device. It sets up, yields "setup", then yields "iteration" once
for each training iteration, holding its locals as a script would. `phase(name)` marks a point inside an iteration
for whoever has set `HOOK`.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ITERS = 4
HOOK: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Workload:
    """One workload and what must be arranged for it.

    Args:
        name: Its name in `WORKLOADS`.
        fn: The generator function.
        settings: Words about it (`batch`, `model`, `optimizer`, `dtype`, `note`) and what it needs: `devices` (1),
            `iters` (`ITERS`), `cudnn` (whether to use it, True) and `env`, variables to set before CUDA is initialised.
    """

    name: str
    fn: Callable[[Any], Iterator[str]]
    settings: Mapping[str, Any]

    def __call__(self, device: Any = "cuda") -> Iterator[str]:
        run = self.fn(device)
        # The null device computes nothing from parameters, and filling them takes most of the time of a short run.
        with uninitialised() if is_null(device) else contextlib.nullcontext():
            setup = next(run)
        yield setup
        yield from run


WORKLOADS: dict[str, Workload] = {}


def workload(**settings: Any) -> Callable[[Callable[[Any], Iterator[str]]], Callable[[Any], Iterator[str]]]:
    """Register a generator function with its settings."""

    def register(function: Callable[[Any], Iterator[str]]) -> Callable[[Any], Iterator[str]]:
        WORKLOADS[function.__name__] = Workload(function.__name__, function, settings)
        return function

    return register


def phase(name):
    if HOOK is not None:
        HOOK(name)


def is_cuda(device):
    return torch.device(device).type == "cuda"


def is_null(device):
    """Whether `device` is a null CUDA device; found out without initialising CUDA."""
    return is_cuda(device) and hasattr(ctypes.CDLL(None), "nullcuda_used")


def read(t):
    """`loss.item()`, where the tensor has a value to read."""
    from torch._subclasses.fake_tensor import FakeTensor

    return 0.0 if isinstance(t, FakeTensor) else t.item()


def other(device, i):
    """The i-th CUDA device, or `device` itself where that is no CUDA device."""
    return torch.device("cuda", i) if is_cuda(device) else torch.device(device)


def sync(device):
    if is_cuda(device):
        torch.cuda.synchronize()


@contextlib.contextmanager
def uninitialised() -> Iterator[None]:
    """Leave parameters as they are when modules are made."""
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    real = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(nn.init, name, function)


@contextlib.contextmanager
def fake():
    """FakeTensorMode in which module.to(device) works (parameters are replaced, not swapped)."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def apply(self, fn, recurse=True, memo=None):
        memo = {} if memo is None else memo
        for child in self.children():
            apply(child, fn, recurse, memo)
        for k, p in self._parameters.items():
            if p is not None:
                self._parameters[k] = memo.setdefault(id(p), (p, nn.Parameter(fn(p.data), p.requires_grad)))[1]
        for k, b in self._buffers.items():
            if b is not None:
                self._buffers[k] = fn(b)
        if isinstance(self, nn.RNNBase):
            self._init_flat_weights()
        return self

    real = nn.Module._apply
    rnn = nn.RNNBase.__dict__["_apply"]
    nn.Module._apply = nn.RNNBase._apply = apply
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        nn.Module._apply, nn.RNNBase._apply = real, rnn


def loop(model, opt, batch, loss_fn, iters=ITERS, set_to_none=True, after=None):
    """The plain training loop; batch(i) gives (x, y). Its locals live on between yields."""
    yield "setup"
    for i in range(iters):
        x, y = batch(i)
        opt.zero_grad(set_to_none=set_to_none)
        out = model(x)
        loss = loss_fn(out, y)
        phase("forward")
        loss.backward()
        phase("backward")
        opt.step()
        phase("step")
        if after:
            after(loss)
        yield "iteration"


def mlp(width=2048, depth=4, inp=1024, out=1000):
    dims = [inp] + [width] * depth
    layers = []
    for a, b in itertools.pairwise(dims):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, out))


def class_batch(device, n, shape, classes):
    return lambda i: (torch.randn(n, *shape, device=device), torch.zeros(n, dtype=torch.long, device=device))


def image_loop(net, device, n, size=224, opt=None, **kw):
    net = net.to(device)
    opt = opt or torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    return loop(net, opt, class_batch(device, n, (3, size, size), 1000), F.cross_entropy, **kw)


def vision(name, **kw):
    import torchvision

    return getattr(torchvision.models, name)(weights=None, **kw)


# ---- perceptrons and optimizers --------------------------------------------------------------------


@workload(batch=512, model="mlp 1024-4x2048-1000", optimizer="SGD")
def mlp_sgd(device):
    m = mlp().to(device)
    yield from loop(
        m, torch.optim.SGD(m.parameters(), lr=0.1), class_batch(device, 512, (1024,), 1000), F.cross_entropy
    )


@workload(batch=512, model="mlp 1024-4x2048-1000", optimizer="Adam (default: foreach on CUDA)")
def mlp_adam(device):
    m = mlp().to(device)
    yield from loop(m, torch.optim.Adam(m.parameters()), class_batch(device, 512, (1024,), 1000), F.cross_entropy)


@workload(batch=64, model="mlp 1024-16x4096-1000", optimizer="Adam foreach=True")
def adam_foreach(device):
    m = mlp(4096, 16).to(device)
    yield from loop(
        m, torch.optim.Adam(m.parameters(), foreach=True), class_batch(device, 64, (1024,), 1000), F.cross_entropy
    )


@workload(batch=64, model="mlp 1024-16x4096-1000", optimizer="Adam foreach=False")
def adam_forloop(device):
    m = mlp(4096, 16).to(device)
    yield from loop(
        m, torch.optim.Adam(m.parameters(), foreach=False), class_batch(device, 64, (1024,), 1000), F.cross_entropy
    )


@workload(batch="4 x 128", model="mlp 1024-4x2048-1000", optimizer="Adam", note="4 micro-batches accumulated")
def grad_accumulation(device):
    m = mlp().to(device)
    opt = torch.optim.Adam(m.parameters())
    yield "setup"
    for _ in range(ITERS):
        opt.zero_grad()
        for _ in range(4):
            x, y = class_batch(device, 128, (1024,), 1000)(0)
            loss = F.cross_entropy(m(x), y) / 4
            loss.backward()
        phase("backward")
        opt.step()
        phase("step")
        yield "iteration"


# ---- convolution -----------------------------------------------------------------------------------


@workload(batch=16, model="resnet18 224px", optimizer="SGD momentum")
def resnet18(device):
    yield from image_loop(vision("resnet18"), device, 16)


@workload(batch=16, model="resnet50 224px", optimizer="SGD momentum", cudnn=False)
def resnet50_nocudnn(device):
    yield from image_loop(vision("resnet50"), device, 16)


@workload(batch=8, model="vit_b_16 224px", optimizer="AdamW")
def vit_b_16(device):
    net = vision("vit_b_16").to(device)
    yield from image_loop(net, device, 8, opt=torch.optim.AdamW(net.parameters()))


class UNet(nn.Module):
    def __init__(self, base=32, depth=4):
        super().__init__()

        def block(i, o):
            return nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1),
                nn.GroupNorm(8, o),
                nn.SiLU(),
                nn.Conv2d(o, o, 3, padding=1),
                nn.GroupNorm(8, o),
                nn.SiLU(),
            )

        ch = [base * 2**i for i in range(depth)]
        self.down = nn.ModuleList([block(3 if i == 0 else ch[i - 1], c) for i, c in enumerate(ch)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(ch[i], ch[i - 1], 2, 2) for i in range(depth - 1, 0, -1)])
        self.merge = nn.ModuleList([block(ch[i - 1] * 2, ch[i - 1]) for i in range(depth - 1, 0, -1)])
        self.out = nn.Conv2d(base, 3, 1)

    def forward(self, x):
        skips = []
        for i, d in enumerate(self.down):
            x = d(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for u, m in zip(self.up, self.merge, strict=True):
            x = m(torch.cat([u(x), skips.pop()], 1))
        return self.out(x)


@workload(
    batch=32, model="resnet18 224px", optimizer="none", note="eval() but no torch.no_grad(): graphs die each iteration"
)
def resnet18_eval_grad(device):
    net = vision("resnet18").to(device).eval()
    yield "setup"
    for _ in range(ITERS):
        out = net(torch.randn(32, 3, 224, 224, device=device))  # noqa: F841 - a script would hold it
        phase("forward")
        yield "iteration"


# ---- transformers ----------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, d, heads, attention):
        super().__init__()
        self.h, self.attention = heads, attention
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.h, d // self.h).permute(2, 0, 3, 1, 4)
        if self.attention == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            w = q @ k.transpose(-2, -1) / math.sqrt(d // self.h)
            w = w.masked_fill(torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1), float("-inf"))
            y = F.softmax(w, -1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """GPT-2 small by default: 124 M parameters, tied embeddings."""

    def __init__(self, vocab=50257, d=768, layers=12, heads=12, ctx=1024, attention="sdpa", checkpoint=False):
        super().__init__()
        self.checkpoint = checkpoint
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(ctx, d)
        self.blocks = nn.ModuleList([Block(d, heads, attention) for _ in range(layers)])
        self.ln = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab, bias=False)
        self.head.weight = self.tok.weight

    def forward(self, ids):
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for b in self.blocks:
            x = torch.utils.checkpoint.checkpoint(b, x, use_reentrant=False) if self.checkpoint else b(x)
        return self.head(self.ln(x))


def gpt_loop(device, n, t, amp=None, small=False, opt=torch.optim.AdamW, **kw):
    import torch.utils.checkpoint

    m = GPT(**({"d": 256, "layers": 4, "heads": 4, "vocab": 8192} if small else {}), **kw).to(device)
    o = opt(m.parameters())
    dev = torch.device(device).type
    yield "setup"
    for _ in range(ITERS):
        ids = torch.zeros(n, t, dtype=torch.long, device=device)
        o.zero_grad()
        with torch.autocast(dev, amp or torch.bfloat16, enabled=amp is not None):
            logits = m(ids)
            loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
        phase("forward")
        loss.backward()
        phase("backward")
        o.step()
        phase("step")
        yield "iteration"


@workload(batch="4 x 512", model="GPT-2 small, F.scaled_dot_product_attention", optimizer="AdamW", dtype="float32")
def gpt2_sdpa(device):
    yield from gpt_loop(device, 4, 512)


@workload(
    batch="4 x 512", model="GPT-2 small, F.scaled_dot_product_attention", optimizer="AdamW", dtype="autocast bfloat16"
)
def gpt2_bf16(device):
    yield from gpt_loop(device, 4, 512, amp=torch.bfloat16)


@workload(batch="8 x 256", model="GPT 4 layers of 256, written-out attention", optimizer="SGD", dtype="float32")
def gpt_tiny(device):
    yield from gpt_loop(device, 8, 256, small=True, attention="eager", opt=lambda p: torch.optim.SGD(p, lr=0.1))


@workload(batch="16 x 128", model="nn.TransformerEncoder 6 x TransformerEncoderLayer(512, 8, 2048)", optimizer="Adam")
def transformer_encoder(device):
    m = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), 6, enable_nested_tensor=False
    ).to(device)
    yield from loop(
        m,
        torch.optim.Adam(m.parameters()),
        lambda i: (torch.randn(16, 128, 512, device=device), torch.randn(16, 128, 512, device=device)),
        F.mse_loss,
    )


@workload(batch="4..24 x 64..512", model="nn.TransformerEncoder, lengths vary", optimizer="Adam", iters=12)
def variable_length(device):
    m = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), 4, enable_nested_tensor=False
    ).to(device)
    lens = [64, 500, 133, 312, 87, 450, 210, 377, 96, 289, 512, 175]
    yield from loop(
        m,
        torch.optim.Adam(m.parameters()),
        lambda i: (torch.randn(4 + 7 * i % 21, lens[i], 512, device=device),) * 2,
        F.mse_loss,
        iters=12,
    )


@workload(
    batch="4..24 x 64..512",
    model="nn.TransformerEncoder, lengths vary",
    optimizer="Adam",
    iters=12,
    env={"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
)
def variable_length_expandable(device):
    yield from variable_length(device)


# ---- recurrent -------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, cell, inp=256, hid=512, layers=2, **kw):
        super().__init__()
        self.rnn = cell(inp, hid, layers, batch_first=True, **kw)
        self.out = nn.Linear(hid * (2 if kw.get("bidirectional") else 1), 10)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


@workload(batch="32 x 100", model="2-layer LSTM 256-512", optimizer="Adam", cudnn=False)
def lstm_native(device):
    m = Recurrent(nn.LSTM).to(device)
    yield from loop(m, torch.optim.Adam(m.parameters()), class_batch(device, 32, (100, 256), 10), F.cross_entropy)


# ---- precision, recomputation, graphs --------------------------------------------------------------


@workload(batch=512, model="mlp 1024-4x2048-1000", optimizer="SGD momentum", dtype="autocast float16 + GradScaler")
def mlp_amp(device):
    dev = torch.device(device).type
    m = mlp().to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(dev, enabled=dev == "cuda")
    yield "setup"
    for _ in range(ITERS):
        x, y = class_batch(device, 512, (1024,), 1000)(0)
        opt.zero_grad()
        with torch.autocast(dev, torch.float16 if dev == "cuda" else torch.bfloat16):
            loss = F.cross_entropy(m(x), y)
        phase("forward")
        scaler.scale(loss).backward()
        phase("backward")
        scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
        phase("step")
        yield "iteration"


def checkpointed(device, **kw):
    from torch.utils.checkpoint import checkpoint_sequential

    m = mlp(2048, 16).to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    yield "setup"
    for _ in range(ITERS):
        x, y = class_batch(device, 2048, (1024,), 1000)(0)
        x.requires_grad_()
        opt.zero_grad()
        loss = F.cross_entropy(checkpoint_sequential(m, 4, x, **kw), y)
        phase("forward")
        loss.backward()
        phase("backward")
        opt.step()
        phase("step")
        yield "iteration"


@workload(
    batch=2048, model="mlp 1024-16x2048-1000, checkpoint_sequential(4)", optimizer="SGD", note="use_reentrant=False"
)
def checkpoint_mlp(device):
    yield from checkpointed(device, use_reentrant=False)


@workload(batch=64, model="DCGAN-like, 64px", optimizer="2 x Adam")
def gan(device):
    g = nn.Sequential(
        nn.ConvTranspose2d(100, 512, 4, 1, 0),
        nn.BatchNorm2d(512),
        nn.ReLU(True),
        nn.ConvTranspose2d(512, 256, 4, 2, 1),
        nn.BatchNorm2d(256),
        nn.ReLU(True),
        nn.ConvTranspose2d(256, 128, 4, 2, 1),
        nn.BatchNorm2d(128),
        nn.ReLU(True),
        nn.ConvTranspose2d(128, 64, 4, 2, 1),
        nn.BatchNorm2d(64),
        nn.ReLU(True),
        nn.ConvTranspose2d(64, 3, 4, 2, 1),
        nn.Tanh(),
    ).to(device)
    d = nn.Sequential(
        nn.Conv2d(3, 64, 4, 2, 1),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(64, 128, 4, 2, 1),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(128, 256, 4, 2, 1),
        nn.BatchNorm2d(256),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(256, 1, 8),
    ).to(device)
    og, od = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    one, zero = torch.ones(64, device=device), torch.zeros(64, device=device)
    bce = F.binary_cross_entropy_with_logits
    yield "setup"
    for _ in range(ITERS):
        real = torch.randn(64, 3, 64, 64, device=device)
        fake = g(torch.randn(64, 100, 1, 1, device=device))
        od.zero_grad()
        ld = bce(d(real).flatten(), one) + bce(d(fake.detach()).flatten(), zero)
        ld.backward()
        od.step()
        phase("discriminator")
        og.zero_grad()
        lg = bce(d(fake).flatten(), one)
        lg.backward()
        og.step()
        phase("generator")
        yield "iteration"


# ---- leaks and other troubles ----------------------------------------------------------------------


@workload(
    batch=512,
    model="mlp 1024-4x2048-1000",
    optimizer="SGD",
    note="loss_sum += loss keeps every iteration's graph",
    iters=8,
)
def leak_loss_sum(device):
    m = mlp().to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    loss_sum = 0
    yield "setup"
    for _ in range(8):
        x, y = class_batch(device, 512, (1024,), 1000)(0)
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        phase("forward")
        loss.backward()
        phase("backward")
        opt.step()
        phase("step")
        loss_sum += loss
        yield "iteration"


@workload(batch=512, model="mlp 1024-4x2048-1000", optimizer="SGD", note="history.append(outputs)", iters=8)
def leak_history(device):
    m = mlp().to(device)
    history = []
    yield from loop(
        lambda x: history.append(m(x)) or history[-1],
        torch.optim.SGD(m.parameters(), lr=0.1),
        class_batch(device, 512, (1024,), 1000),
        F.cross_entropy,
        iters=8,
    )


@workload(
    batch="grows 64..",
    model="mlp 1024-8x4096-1000",
    optimizer="SGD",
    iters=8,
    note="batch doubles until out of memory; then caught, emptied, halved",
    env={"NULLCUDA_MEMORY": "2G"},
)
def oom_retry(device):
    m = mlp(4096, 8).to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    n, ooms = 512, 0
    yield "setup"
    for _ in range(8):
        try:
            x, y = class_batch(device, n, (1024,), 1000)(0)
            opt.zero_grad()
            loss = F.cross_entropy(m(x), y)
            loss.backward()
            opt.step()
            del loss
            n = n * 2 if not ooms else n
        except torch.OutOfMemoryError:
            ooms += 1
            x = y = loss = None  # noqa: F841 - they are what would stay alive
            opt.zero_grad()
            phase("oom")
            torch.cuda.empty_cache()
            n //= 2
        yield "iteration"


@workload(batch=512, model="mlp 1024-4x2048-1000", optimizer="Adam", note="torch.cuda.empty_cache() each iteration")
def empty_cache(device):
    m = mlp().to(device)
    yield from loop(
        m,
        torch.optim.Adam(m.parameters()),
        class_batch(device, 512, (1024,), 1000),
        F.cross_entropy,
        after=lambda _: is_cuda(device) and torch.cuda.empty_cache(),
    )


@workload(
    batch=64,
    model="mlp 768-2x1024-10",
    optimizer="SGD",
    note="DataLoader(pin_memory=True, num_workers=2), non_blocking copies",
)
def pinned_loader(device):
    data = torch.utils.data.TensorDataset(torch.randn(512, 768), torch.zeros(512, dtype=torch.long))
    cuda = is_cuda(device)
    m = mlp(1024, 2, 768, 10).to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    it = iter(torch.utils.data.DataLoader(data, batch_size=64, pin_memory=cuda, num_workers=2 if cuda else 0))
    yield "setup"
    for _ in range(ITERS):
        x, y = next(it)
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        phase("forward")
        loss.backward()
        phase("backward")
        opt.step()
        phase("step")
        read(loss)
        yield "iteration"


@workload(
    batch=256,
    model="mlp 1024-4x2048-1000",
    optimizer="SGD",
    note="input prepared on a side stream, record_stream",
    devices=1,
)
def side_stream(device):
    m = mlp().to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    s = torch.cuda.Stream() if is_cuda(device) else None
    y = torch.zeros(256, dtype=torch.long, device=device)
    yield "setup"
    for _ in range(ITERS):
        with torch.cuda.stream(s):
            x = torch.randn(256, 1024, device=device) * 2
        if s is not None:
            torch.cuda.current_stream().wait_stream(s)
            x.record_stream(torch.cuda.current_stream())
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        phase("forward")
        loss.backward()
        phase("backward")
        opt.step()
        yield "iteration"


# ---- several devices -------------------------------------------------------------------------------


@workload(batch=256, model="mlp split over 2 devices", optimizer="Adam", devices=2)
def model_parallel(device):
    d0, d1 = other(device, 0), other(device, 1)
    a, b = mlp(4096, 3, 1024, 4096).to(d0), mlp(4096, 3, 4096, 1000).to(d1)
    opt = torch.optim.Adam([*a.parameters(), *b.parameters()])
    yield from loop(
        lambda x: b(a(x).to(d1)),
        opt,
        lambda i: (torch.randn(256, 1024, device=d0), torch.zeros(256, dtype=torch.long, device=d1)),
        F.cross_entropy,
    )


@workload(batch=64, model="resnet18 224px, nn.DataParallel", optimizer="SGD momentum", devices=2)
def data_parallel(device):
    net = vision("resnet18").to(other(device, 0))
    if is_cuda(device):
        net = nn.DataParallel(net, [0, 1])
    yield from image_loop(net, other(device, 0), 64)


@workload(
    batch=256,
    model="mlp 1024-4x2048-1000",
    optimizer="SGD",
    note="forward+backward captured in a torch.cuda.CUDAGraph (private pool), then replayed",
)
def cuda_graph(device):
    m = mlp().to(device)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    x, y = class_batch(device, 256, (1024,), 1000)(0)
    if not is_cuda(device) or type(x) is not torch.Tensor:
        yield from loop(m, opt, lambda i: (x, y), F.cross_entropy)
        return
    s = torch.cuda.Stream()
    s.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(s):
        F.cross_entropy(m(x), y).backward()
    torch.cuda.current_stream().wait_stream(s)
    opt.zero_grad(set_to_none=True)
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        loss = F.cross_entropy(m(x), y)
        loss.backward()
    yield "setup"
    for _ in range(ITERS):
        g.replay()
        opt.step()
        yield "iteration"
