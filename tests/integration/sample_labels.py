"""What is true of each script in `samples/`: the findings a diagnosis must and may contain.

The figures were measured on the CPU build of torch 2.13 with weak references on every storage, taken at
each call of a root module, and with a count of the autograd nodes reachable from live tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SAMPLES_DIR = Path(__file__).parents[2] / "samples"

KIB = 1024

HARMLESS_CODES = frozenset({"MP301", "MP302", "MP303", "MP304"})
"""They say where the peak comes from, which may be said of any script."""


@dataclass(frozen=True)
class ExpectedFinding:
    """A finding that must be reported.

    Attributes:
        code: Code of the rule.
        line: Text that occurs in one line of the script only: the line to report. None: any line.
        remedies: Slugs of which at least one must be offered.
        holder: Text that must occur in the holder. None: not checked.
        bytes_per_iteration: Growth measured, in bytes for each iteration of the loop in which it grows.
            None: no growth in bytes that is worth a figure.
        severities: Severities that are honest. Empty: not checked.
    """

    code: str
    line: str | None
    remedies: frozenset[str]
    holder: str | None = None
    bytes_per_iteration: int | None = None
    severities: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AllowedFinding:
    """A finding that is true as well and may be reported; `line` as in `ExpectedFinding`."""

    code: str
    line: str | None = None


@dataclass(frozen=True)
class SampleLabel:
    """The truth about one script.

    Attributes:
        name: File name in `samples/`.
        expected: Findings that must be reported. Empty: the script is clean.
        allowed: Findings that may be reported besides those with `HARMLESS_CODES`.
        twin: File name of the repaired script, None for a clean one.
        note: What was measured, or what tempts a tool into a false alarm.
    """

    name: str
    expected: tuple[ExpectedFinding, ...] = ()
    allowed: tuple[AllowedFinding, ...] = ()
    twin: str | None = None
    note: str = ""

    @property
    def path(self) -> Path:
        """Where the script lies."""
        return SAMPLES_DIR / self.name


def line_number(path: Path, text: str) -> int:
    """Return the number of the one line of a script that contains `text`.

    Raises:
        ValueError: No line contains it, or several do.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, start=1) if text in line]
    if len(found) != 1:
        raise ValueError(f"{text!r} occurs in {len(found)} lines of {path.name}: {found}")
    return found[0]


ITEM = frozenset({"item", "detach"})
RELEASE_OUTPUTS = frozenset({"detach", "item", "move_to_cpu"})
RELEASE_TENSORS = frozenset({"move_to_cpu", "bound_container", "del"})
CUT_HISTORY = frozenset({"detach", "truncate_bptt"})
NO_GRAD = frozenset({"no_grad"})
DEL = frozenset({"del"})
SHRINK = frozenset({"smaller_batch", "checkpointing", "mixed_precision"})

MILD = frozenset({"info", "warning"})
ERROR = frozenset({"error"})


LEAKY = (
    # --- MP101: an accumulator whose graph grows -------------------------------------------------
    SampleLabel(
        "tabular_mlp_leaky.py",
        expected=(ExpectedFinding("MP101", "epoch_loss += loss", ITEM, holder="epoch_loss", severities=MILD),),
        twin="tabular_mlp_clean.py",
        note="after backward: 0 bytes and 12 autograd nodes an iteration, reset after 28 iterations",
    ),
    SampleLabel(
        "average_meter_leaky.py",
        expected=(ExpectedFinding("MP101", "self.sum += val * n", ITEM, holder="AverageMeter", severities=MILD),),
        twin="average_meter_clean.py",
        note="after backward: 0 bytes and 12 autograd nodes an iteration; `avg` and `val` hang on `sum`",
    ),
    SampleLabel(
        "gradient_accumulation_leaky.py",
        expected=(
            ExpectedFinding(
                "MP101",
                "running_loss = running_loss + loss",
                ITEM,
                holder="running_loss",
                severities=MILD,
            ),
        ),
        twin="gradient_accumulation_clean.py",
        note="after backward: 0 bytes and 12 autograd nodes a micro-batch, 48 an optimizer step",
    ),
    SampleLabel(
        "ema_weights_leaky.py",
        expected=(
            ExpectedFinding(
                "MP112",
                "self.shadow[name] = self.decay * self.shadow[name]",
                frozenset({"no_grad", "detach"}),
                holder="shadow",
                severities=MILD,
            ),
        ),
        twin="ema_weights_clean.py",
        note="no backward ever runs through it, yet it saves no tensor: 0 bytes, 18 nodes an iteration",
    ),
    SampleLabel(
        "resnet_argparse_leaky.py",
        expected=(
            ExpectedFinding(
                "MP101",
                "val_loss += criterion(prediction, target)",
                ITEM,
                holder="val_loss",
                bytes_per_iteration=7363 * KIB,
                severities=ERROR,
            ),
        ),
        allowed=(
            AllowedFinding("MP201", "prediction = model(image)"),
            AllowedFinding("MP202", "prediction = model(image)"),
        ),
        twin="resnet_argparse_clean.py",
        note="no backward: all activations of an evaluation stay, until the next one has ended",
    ),
    SampleLabel(
        "metrics_dict_leaky.py",
        expected=(
            ExpectedFinding(
                "MP101",
                'metrics["mae"] += F.l1_loss(prediction, target)',
                ITEM,
                holder="metrics",
                bytes_per_iteration=512 * KIB,
            ),
        ),
        twin="metrics_dict_clean.py",
        note="the training loss frees the network's activations; the difference l1_loss saved stays",
    ),
    # --- MP102: tensors with their graph in a container ------------------------------------------
    SampleLabel(
        "gan_leaky.py",
        expected=(
            ExpectedFinding(
                "MP102",
                "img_list.append(netG(fixed_noise))",
                RELEASE_OUTPUTS | NO_GRAD,
                holder="img_list",
                bytes_per_iteration=1089 * KIB,
            ),
        ),
        allowed=(AllowedFinding("MP201", "img_list.append(netG(fixed_noise))"),),
        twin="gan_clean.py",
        note="every activation of the generator stays; two optimizers and five forwards an iteration",
    ),
    SampleLabel(
        "trainer_class_leaky.py",
        expected=(
            ExpectedFinding(
                "MP102",
                "self.train_outputs.append(outputs)",
                RELEASE_OUTPUTS | RELEASE_TENSORS,
                holder="train_outputs",
                bytes_per_iteration=576 * KIB,
            ),
            ExpectedFinding(
                "MP103",
                "self.train_masks.append(masks)",
                RELEASE_TENSORS,
                holder="train_masks",
                bytes_per_iteration=288 * KIB,
            ),
        ),
        allowed=(AllowedFinding("MP205", "torch.cat(self.train_outputs"),),
        twin="trainer_class_clean.py",
        note="after backward: the outputs themselves stay, and the int64 masks in a list beside them",
    ),
    SampleLabel(
        "transformer_hooks_leaky.py",
        expected=(
            ExpectedFinding(
                "MP107",
                "activations[name].append(output)",
                RELEASE_OUTPUTS | RELEASE_TENSORS,
                holder="activations",
                bytes_per_iteration=1024 * KIB,
            ),
        ),
        twin="transformer_hooks_clean.py",
        note="after backward: two layers' outputs of 512 KiB each, and 129 autograd nodes, an iteration",
    ),
    SampleLabel(
        "regression_notebook_leaky.py",
        expected=(
            ExpectedFinding(
                "MP102",
                'history["val_loss"].append(val_loss)',
                RELEASE_OUTPUTS,
                holder="history",
                bytes_per_iteration=1032 * KIB,
            ),
        ),
        allowed=(
            # 8 KiB an epoch: on CPU the storage of mse_loss keeps the size of its unreduced result.
            AllowedFinding("MP102", 'history["train_loss"].append(loss)'),
            AllowedFinding("MP201", "val_pred = model(x_val)"),
            AllowedFinding("MP202", "val_pred = model(x_val)"),
        ),
        twin="regression_notebook_clean.py",
        note="an iteration is an epoch: one training step and one validation forward",
    ),
    SampleLabel(
        "dqn_replay_leaky.py",
        expected=(
            ExpectedFinding(
                "MP102",
                "memory.append((obs, action, q_values, reward, next_obs))",
                RELEASE_OUTPUTS | NO_GRAD,
                holder="memory",
                bytes_per_iteration=516 * KIB,
            ),
        ),
        allowed=(
            # The observations in the same tuples: 67 KiB an iteration.
            AllowedFinding("MP103", "memory.append((obs, action, q_values, reward, next_obs))"),
            AllowedFinding("MP201", "q_values = policy(obs)"),
            AllowedFinding("MP202", "q_values = policy(obs)"),
        ),
        twin="dqn_replay_clean.py",
        note="tuples in a list; no backward ever runs through the Q-values that chose the action",
    ),
    # --- MP205, MP103: tensors without a graph in a container ------------------------------------
    SampleLabel(
        "text_embedding_bag_leaky.py",
        expected=(
            ExpectedFinding(
                "MP205",
                "probs = torch.cat(all_probs)",
                frozenset({"reduce_per_batch", "move_to_cpu"}),
                holder="`probs` and the list that was joined",
            ),
        ),
        allowed=(AllowedFinding("MP103", "all_labels.append(label)"),),
        twin="text_embedding_bag_clean.py",
        note="grows over the 16 batches of each evaluation; peak 23.2 MiB against 11.1 MiB",
    ),
    SampleLabel(
        "autoencoder_feature_bank_leaky.py",
        expected=(
            ExpectedFinding(
                "MP103",
                "self.features.append(z.detach())",
                RELEASE_TENSORS,
                holder="features",
                bytes_per_iteration=256 * KIB,
            ),
        ),
        allowed=(AllowedFinding("MP205", "torch.cat(list(self.features))"),),
        twin="autoencoder_feature_bank_clean.py",
        note="detached, but the storage stays",
    ),
    SampleLabel(
        "early_stopping_leaky.py",
        expected=(
            ExpectedFinding(
                "MP113",
                "checkpoints.append(copy.deepcopy(model.state_dict()))",
                RELEASE_TENSORS,
                holder="checkpoints",
                bytes_per_iteration=295 * KIB,
            ),
        ),
        twin="early_stopping_clean.py",
        note="a list of dicts of tensors; the allocation happens inside copy.deepcopy",
    ),
    # --- MP104: hidden state with its graph ------------------------------------------------------
    SampleLabel(
        "lstm_language_model_leaky.py",
        expected=(
            ExpectedFinding(
                "MP104",
                "output, hidden = model(data, hidden)",
                CUT_HISTORY,
                holder="hidden",
                bytes_per_iteration=2240 * KIB,
            ),
        ),
        # With retain_graph, `loss` alone would keep the last iteration's graph, too.
        allowed=(AllowedFinding("MP202"),),
        twin="lstm_language_model_clean.py",
        note="retain_graph=True and parameters changed by hand: there is no optimizer to count steps by",
    ),
    SampleLabel(
        "gru_streaming_leaky.py",
        expected=(
            ExpectedFinding(
                "MP104",
                "prediction, self.hidden = self.model(chunk, self.hidden)",
                CUT_HISTORY | NO_GRAD,
                holder="hidden",
                bytes_per_iteration=3588 * KIB,
            ),
        ),
        allowed=(
            AllowedFinding("MP201", "prediction, self.hidden = self.model(chunk, self.hidden)"),
            AllowedFinding("MP202", "prediction, self.hidden = self.model(chunk, self.hidden)"),
        ),
        twin="gru_streaming_clean.py",
        note="12 training steps, then 24 forwards without backward; the state is an attribute",
    ),
    # --- MP201: evaluation with autograd ---------------------------------------------------------
    SampleLabel(
        "cnn_classifier_leaky.py",
        expected=(ExpectedFinding("MP201", "logits = model(images)", NO_GRAD),),
        allowed=(AllowedFinding("MP202", "logits = model(images)"),),
        twin="cnn_classifier_clean.py",
        note="each forward saves 8,850 KiB, held by `logits` in the next one; peak 28.8 against 21.2 MiB",
    ),
    SampleLabel(
        "quickstart.py",
        expected=(
            ExpectedFinding(
                "MP102",
                "history.append(loss)",
                RELEASE_OUTPUTS,
                holder="history",
                bytes_per_iteration=5058 * KIB,
            ),
            ExpectedFinding("MP201", "logits = model(images)", NO_GRAD),
        ),
        allowed=(AllowedFinding("MP202", "logits = model(images)"),),
        twin="quickstart_fixed.py",
        note="the demo; peak 130 MiB against 17.5 MiB",
    ),
    # --- MP202: the previous iteration's tensors -------------------------------------------------
    SampleLabel(
        "super_resolution_leaky.py",
        expected=(ExpectedFinding("MP202", "upscaled = model(frames)", DEL, holder="upscaled"),),
        twin="super_resolution_clean.py",
        note="3,072 KiB of 9,449 KiB at the peak; with `del` the peak is 6,377 KiB",
    ),
    SampleLabel(
        "segmentation_eval_leaky.py",
        expected=(ExpectedFinding("MP202", "logits = self.model(images)", DEL, holder="logits"),),
        twin="segmentation_eval_clean.py",
        note="5,376 KiB of 12,170 KiB at the peak; with `del` the peak is 8,246 KiB",
    ),
    # --- MP301: activations dominate the peak ----------------------------------------------------
    SampleLabel(
        "large_batch_leaky.py",
        expected=(ExpectedFinding("MP301", None, SHRINK, severities=frozenset({"info"})),),
        twin="large_batch_clean.py",
        note="activations are 60.0 of 61.2 MiB at the peak; nothing grows",
    ),
)

CLEAN = (
    SampleLabel("tabular_mlp_clean.py", note="a float accumulator"),
    SampleLabel("average_meter_clean.py", note="meters of floats"),
    SampleLabel("gradient_accumulation_clean.py", note="gradients live through four micro-batches"),
    SampleLabel("ema_weights_clean.py", note="an average of the weights, replaced in every step"),
    SampleLabel("resnet_argparse_clean.py", note="inference_mode as decorator; detach().cpu() then reduced"),
    SampleLabel("metrics_dict_clean.py", note="a dict of floats; the peak is the making of the data set"),
    SampleLabel("gan_clean.py", note="detach() in the discriminator step; lists of floats; one preview kept"),
    SampleLabel("trainer_class_clean.py", note="a list of .item() values as attribute"),
    SampleLabel("transformer_hooks_clean.py", note="forward hooks that keep floats"),
    SampleLabel("regression_notebook_clean.py", note="a dict of lists of floats; no_grad inside the loop"),
    SampleLabel("dqn_replay_clean.py", note="a list of tensors, cleared every six steps; a deque of floats"),
    SampleLabel("text_embedding_bag_clean.py", note="batches of different length"),
    SampleLabel("autoencoder_feature_bank_clean.py", note="a deque of tensors that is full after 4 steps"),
    SampleLabel("early_stopping_clean.py", note="one copy of the best weights, replaced 26 times"),
    SampleLabel("lstm_language_model_clean.py", note="detached hidden state; a bounded deque of floats"),
    SampleLabel("gru_streaming_clean.py", note="hidden state carried under no_grad"),
    SampleLabel("cnn_classifier_clean.py", note="the caller of validate() holds no_grad"),
    SampleLabel("quickstart_fixed.py", note="the demo after both repairs"),
    SampleLabel("super_resolution_clean.py", note="del at the end of the loop's body"),
    SampleLabel("segmentation_eval_clean.py", note="a tensor accumulator without a graph"),
    SampleLabel("large_batch_clean.py", note="checkpointing: forwards run inside backward"),
)

SAMPLES = LEAKY + CLEAN
