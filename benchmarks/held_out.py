"""Workloads that nobody looked at while the table of CUDA's kernels was made.

They are of the kind of `tests/cuda/workloads.py`. An error found on them says more of the next script than one found
there; once an error has been mended because of one, it no longer does, which is why what was found first is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone writes it
from torch import nn

from tests.cuda.workloads import ITERS, Workload, class_batch, image_loop, loop, vision

HELD_OUT: dict[str, Workload] = {}


def held_out(**settings: Any) -> Callable[[Callable[[Any], Iterator[str]]], Callable[[Any], Iterator[str]]]:
    """Register a generator function with its settings; cuDNN's own memory is in none of them."""

    def register(function: Callable[[Any], Iterator[str]]) -> Callable[[Any], Iterator[str]]:
        HELD_OUT[function.__name__] = Workload(function.__name__, function, {"cudnn": False, **settings})
        return function

    return register


# ---- images ------------------------------------------------------------------------------


class _Segmenter(nn.Module):
    """A U-Net with batch norm that upsamples by interpolation."""

    def __init__(self, base: int = 32, classes: int = 21) -> None:
        super().__init__()

        def block(before: int, after: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (before, after):
                layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
            return nn.Sequential(*layers)

        widths = [base, base * 2, base * 4, base * 8]
        self.down = nn.ModuleList([block(before, after) for before, after in zip([3, *widths], widths, strict=False)])
        self.up = nn.ModuleList([block(widths[at] + widths[at - 1], widths[at - 1]) for at in (3, 2, 1)])
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give logits: (batch, classes, height, width)."""
        skips = []
        for at, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2) if at else x)
            skips.append(x)
        skips.pop()
        for stage in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = stage(torch.cat([x, skips.pop()], 1))
        return self.head(x)


@held_out(batch="8 x 128px", model="U-Net, batch norm, bilinear upsampling", optimizer="RMSprop")
def unet_segmentation(device: Any) -> Iterator[str]:
    """Segment images, a class for every pixel."""
    net = _Segmenter().to(device)
    yield from loop(
        net,
        torch.optim.RMSprop(net.parameters(), lr=1e-4, momentum=0.9),
        lambda _: (
            torch.randn(8, 3, 128, 128, device=device),
            torch.zeros(8, 128, 128, dtype=torch.long, device=device),
        ),
        F.cross_entropy,
    )


@held_out(batch="16 x 160px", model="torchvision mobilenet_v3_small", optimizer="SGD momentum")
def mobilenet_v3_small(device: Any) -> Iterator[str]:
    """Depthwise convolutions, squeeze and excitation, hard swish."""
    yield from image_loop(vision("mobilenet_v3_small"), device, 16, size=160)


@held_out(batch="8 x 160px", model="torchvision efficientnet_b0", optimizer="SGD momentum, clipped gradients")
def efficientnet_b0(device: Any) -> Iterator[str]:
    """Depthwise convolutions, SiLU, stochastic depth."""
    net = vision("efficientnet_b0").to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    yield "setup"
    for _ in range(ITERS):
        images, labels = class_batch(device, 8, (3, 160, 160), 1000)(0)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels, label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        yield "iteration"


@held_out(batch="8 x 224px", model="torchvision convnext_tiny", optimizer="AdamW")
def convnext_tiny(device: Any) -> Iterator[str]:
    """Layer norm over permuted channels, layer scale."""
    net = vision("convnext_tiny").to(device)
    yield from image_loop(net, device, 8, opt=torch.optim.AdamW(net.parameters()))


@held_out(batch="8 x 224px", model="torchvision swin_t", optimizer="AdamW")
def swin_t(device: Any) -> Iterator[str]:
    """Attention in shifted windows, relative positions by index."""
    net = vision("swin_t").to(device)
    yield from image_loop(net, device, 8, opt=torch.optim.AdamW(net.parameters()))


@held_out(batch="8 x 128px", model="torchvision densenet121", optimizer="SGD momentum")
def densenet121(device: Any) -> Iterator[str]:
    """Concatenation after concatenation."""
    yield from image_loop(vision("densenet121"), device, 8, size=128)


class _VariationalAutoencoder(nn.Module):
    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.ELU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ELU(), nn.Conv2d(64, 128, 4, 2, 1)
        )
        self.mean, self.log_variance = nn.Linear(128 * 64, hidden), nn.Linear(128 * 64, hidden)
        self.widen = nn.Linear(hidden, 128 * 64)
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 4, 2, 1),
            nn.ELU(),
            nn.ConvTranspose2d(64, 32, 4, 2, 1),
            nn.ELU(),
            nn.ConvTranspose2d(32, 3, 4, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give the picture's logits, means and logarithms of variances."""
        flat = self.encode(x).flatten(1)
        mean, log_variance = self.mean(flat), self.log_variance(flat)
        code = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decode(self.widen(code).view(-1, 128, 8, 8)), mean, log_variance


@held_out(batch="64 x 64px", model="convolutional VAE", optimizer="Adam")
def vae(device: Any) -> Iterator[str]:
    """Reconstruction and divergence."""
    net = _VariationalAutoencoder().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    yield "setup"
    for _ in range(ITERS):
        images = torch.rand(64, 3, 64, 64, device=device)
        logits, mean, log_variance = net(images)
        reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        loss = (reconstruction + divergence) / 64
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield "iteration"


class _DiffusionBlock(nn.Module):
    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(8, channels) for _ in range(3))
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.time = nn.Linear(embedding, 2 * channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Convolve with scale and shift of the time, then attend over all pixels."""
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        x = x + F.dropout(h, 0.1, self.training)
        batch, channels, height, width = x.shape
        q, k, v = self.qkv(self.norm3(x)).view(batch, 3, 4, channels // 4, height * width).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.out(attended)


@held_out(batch="16 x 32px", model="four diffusion blocks of 128 channels, average of weights", optimizer="AdamW")
def diffusion(device: Any) -> Iterator[str]:
    """Predict noise; a second copy of the weights follows."""
    stem, head = nn.Conv2d(3, 128, 3, padding=1).to(device), nn.Conv2d(128, 3, 3, padding=1).to(device)
    blocks = nn.ModuleList([_DiffusionBlock(128, 256) for _ in range(4)]).to(device)
    averaged = torch.optim.swa_utils.AveragedModel(blocks)
    optimizer = torch.optim.AdamW([*stem.parameters(), *blocks.parameters(), *head.parameters()])
    levels = torch.linspace(1e-4, 0.02, 1000, device=device)
    kept = torch.cumprod(1 - levels, 0)
    frequencies = torch.exp(-9.2 * torch.arange(128, device=device) / 128)
    yield "setup"
    for _ in range(ITERS):
        images, noise = torch.randn(16, 3, 32, 32, device=device), torch.randn(16, 3, 32, 32, device=device)
        steps = torch.randint(0, 1000, (16,), device=device)
        part = kept[steps].view(-1, 1, 1, 1)
        angles = steps[:, None].float() * frequencies[None]
        time = torch.cat([angles.sin(), angles.cos()], dim=1)
        x = stem(part.sqrt() * images + (1 - part).sqrt() * noise)
        for block in blocks:
            x = block(x, time)
        loss = F.mse_loss(head(x), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(blocks.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(blocks)
        yield "iteration"


# ---- sequences ---------------------------------------------------------------------------


@held_out(batch="32 x 64 to 48", model="nn.Transformer(256, 8, 3, 3, 1024)", optimizer="Adam, warm-up")
def translation(device: Any) -> Iterator[str]:
    """An encoder and a decoder with masks of padding and of the future; smoothed labels."""
    source, target = nn.Embedding(8000, 256).to(device), nn.Embedding(8000, 256).to(device)
    net = nn.Transformer(256, 8, 3, 3, 1024, batch_first=True).to(device)
    head = nn.Linear(256, 8000).to(device)
    parameters = [weight for module in (source, target, net, head) for weight in module.parameters()]
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) ** -0.5, (step + 1) * 1e-3))
    future = nn.Transformer.generate_square_subsequent_mask(47, device=device)
    yield "setup"
    for _ in range(ITERS):
        given = torch.zeros(32, 64, dtype=torch.long, device=device)
        wanted = torch.zeros(32, 48, dtype=torch.long, device=device)
        padding = torch.zeros(32, 64, dtype=torch.bool, device=device)
        decoded = net(
            source(given),
            target(wanted[:, :-1]),
            tgt_mask=future,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits = head(decoded)
        loss = F.cross_entropy(logits.reshape(-1, 8000), wanted[:, 1:].reshape(-1), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield "iteration"


@held_out(batch="32 x 20..80", model="bidirectional 2-layer GRU 128-256, packed", optimizer="Adagrad")
def packed_gru(device: Any) -> Iterator[str]:
    """Classify sequences of different lengths."""
    embedding = nn.Embedding(10000, 128, padding_idx=0).to(device)
    net = nn.GRU(128, 256, 2, batch_first=True, bidirectional=True).to(device)
    head = nn.Linear(512, 5).to(device)
    optimizer = torch.optim.Adagrad([*embedding.parameters(), *net.parameters(), *head.parameters()])
    lengths = torch.tensor([80 - 60 * at // 31 for at in range(32)])
    yield "setup"
    for _ in range(ITERS):
        tokens = torch.ones(32, 80, dtype=torch.long, device=device)
        packed = nn.utils.rnn.pack_padded_sequence(embedding(tokens), lengths, batch_first=True)
        _, last = net(packed)
        loss = F.cross_entropy(head(torch.cat([last[-2], last[-1]], 1)), torch.zeros_like(tokens[:, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield "iteration"


@held_out(batch="8 x 16000", model="conv1d encoder with GLU, CTC", optimizer="NAdam")
def speech(device: Any) -> Iterator[str]:
    """Strided convolutions over samples, then the CTC loss."""
    layers: list[nn.Module] = []
    for before, after, width, stride in ((1, 128, 10, 5), (128, 256, 8, 4), (256, 256, 4, 2), (256, 256, 4, 2)):
        layers += [nn.Conv1d(before, 2 * after, width, stride), nn.GLU(1), nn.InstanceNorm1d(after, affine=True)]
    net = nn.Sequential(*layers, nn.Conv1d(256, 32, 1)).to(device)
    optimizer = torch.optim.NAdam(net.parameters())
    yield "setup"
    for _ in range(ITERS):
        scores = F.log_softmax(net(torch.randn(8, 1, 16000, device=device)).permute(2, 0, 1), -1)
        lengths = torch.full((8,), scores.shape[0], dtype=torch.long)
        targets = torch.ones(8, 40, dtype=torch.long, device=device)
        loss = F.ctc_loss(scores, targets, lengths, torch.full((8,), 40, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield "iteration"


class _Experts(nn.Module):
    """Tokens go to two of eight experts, each with room for a fixed number."""

    def __init__(self, width: int = 512, experts: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts, bias=False)
        self.norm = nn.RMSNorm(width)
        self.rise = nn.Parameter(torch.randn(experts, width, 4 * width) * 0.02)
        self.fall = nn.Parameter(torch.randn(experts, 2 * width, width) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Route, compute, and add what the experts say to x: (tokens, width)."""
        tokens, width = x.shape
        h = self.norm(x)
        chances = self.gate(h).softmax(-1)
        weights, chosen = chances.topk(2, dim=-1)
        order = chosen.flatten().argsort(stable=True)
        room = 2 * tokens // self.gate.out_features
        rows = order // 2
        given = h[rows].view(self.gate.out_features, room, width)
        value, gate = torch.bmm(given, self.rise).chunk(2, dim=-1)
        said = torch.bmm(value * F.silu(gate), self.fall).view(-1, width)
        said = said * weights.flatten()[order].unsqueeze(1)
        return x + torch.zeros_like(x).index_add(0, rows, said)


@held_out(
    batch="4096 tokens", model="mixture of 8 experts, 3 layers of 512", optimizer="AdamW", dtype="bfloat16 autocast"
)
def mixture_of_experts(device: Any) -> Iterator[str]:
    """Gather, batched products, scatter."""
    kind = torch.device(device).type
    net = nn.Sequential(*(_Experts() for _ in range(3)), nn.Linear(512, 4000)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.1)
    yield "setup"
    for _ in range(ITERS):
        x, y = class_batch(device, 4096, (512,), 4000)(0)
        optimizer.zero_grad()
        with torch.autocast(kind, torch.bfloat16):
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        yield "iteration"


# ---- tables and pairs --------------------------------------------------------------------


@held_out(batch=4096, model="26 EmbeddingBags of 20000 x 32, crosses, mlp", optimizer="Adagrad")
def click_prediction(device: Any) -> Iterator[str]:
    """Bags of categories and crossed features."""
    bags = nn.ModuleList([nn.EmbeddingBag(20000, 32, mode="sum") for _ in range(26)]).to(device)
    width = 26 * 32 + 13
    crosses = nn.ModuleList([nn.Linear(width, width) for _ in range(3)]).to(device)
    deep = nn.Sequential(nn.Linear(width, 512), nn.BatchNorm1d(512), nn.PReLU(), nn.Linear(512, 1)).to(device)
    optimizer = torch.optim.Adagrad([*bags.parameters(), *crosses.parameters(), *deep.parameters()])
    yield "setup"
    for _ in range(ITERS):
        dense = torch.rand(4096, 13, device=device)
        categories = torch.zeros(26, 4096, 4, dtype=torch.long, device=device)
        clicked = torch.zeros(4096, device=device)
        first = x = torch.cat([torch.log1p(dense), *(bag(categories[at]) for at, bag in enumerate(bags))], 1)
        for cross in crosses:
            x = first * cross(x) + x
        loss = F.binary_cross_entropy(torch.sigmoid(deep(x).squeeze(1)), clicked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield "iteration"


@held_out(batch=2048, model="two towers, contrastive loss over the batch", optimizer="Adam, fused")
def contrastive(device: Any) -> Iterator[str]:
    """A product of everything with everything, and logsumexp of it."""

    def tower() -> nn.Sequential:
        return nn.Sequential(nn.Linear(768, 1024), nn.LayerNorm(1024), nn.Mish(), nn.Dropout(0.1), nn.Linear(1024, 256))

    left, right = tower().to(device), tower().to(device)
    scale = nn.Parameter(torch.tensor(2.6, device=device))
    optimizer = torch.optim.Adam([*left.parameters(), *right.parameters(), scale], fused=True)
    yield "setup"
    for _ in range(ITERS):
        a, b = torch.randn(2048, 768, device=device), torch.randn(2048, 768, device=device)
        a, b = F.normalize(left(a), dim=-1), F.normalize(right(b), dim=-1)
        logits = scale.exp() * a @ b.t()
        hits = logits.diagonal()
        loss = (torch.logsumexp(logits, 0) - hits).mean() + (torch.logsumexp(logits, 1) - hits).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield "iteration"
