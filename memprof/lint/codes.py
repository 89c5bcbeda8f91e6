"""The codes the static check gives: those of the rules for recorded runs whose problem the source can show."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LintRule:
    """What one code stands for in the source.

    Attributes:
        code: `MP` and three digits.
        title: Name of the rule, in the words of its class.
        summary: One line.
        help: What it costs and what to do.
    """

    code: str
    title: str
    summary: str
    help: str

    @property
    def name(self) -> str:
        """The title in kebab case: `graph-grows-across-iterations`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.title).lower()


LINT_RULES: tuple[LintRule, ...] = (
    LintRule(
        "MP101",
        "GraphGrowsAcrossIterations",
        "A running sum keeps the autograd graph of every iteration.",
        "The sum has the losses it was made of as its history, and their graphs with it. Sum numbers: `loss.item()`, "
        "or `loss.detach()` where the device must not wait.",
    ),
    LintRule(
        "MP102",
        "OutputsKeptWithGraph",
        "A container keeps tensors together with their autograd graph.",
        "Each tensor holds all activations its backward pass would need. Store `.item()` of a loss, `.detach()` of "
        "an output.",
    ),
    LintRule(
        "MP103",
        "TensorsKeptInContainer",
        "A container keeps tensors of every iteration on the device.",
        "Without a graph a tensor still takes its bytes. Move it to the host with `.cpu()`, or limit the container.",
    ),
    LintRule(
        "MP104",
        "HiddenStateCarriedWithGraph",
        "A hidden state goes into the next iteration with its history.",
        "The graph reaches back to the first iteration and grows with each. Detach the state where an iteration "
        "begins.",
    ),
    LintRule(
        "MP105",
        "GraphRetainedWithoutNeed",
        "`retain_graph=True` keeps a graph that no later backward pass uses.",
        "The saved activations stay until the loss is rebound, in the next forward pass. Leave the argument out.",
    ),
    LintRule(
        "MP106",
        "GradientsKeptWithGraph",
        "`create_graph=True` builds a graph of the gradients that nothing differentiates.",
        "The graph holds the activations, and stored in `.grad` it is a reference cycle with the parameters. Leave it "
        "out.",
    ),
    LintRule(
        "MP107",
        "HookStoresActivations",
        "A hook stores activations in every forward pass.",
        "What is stored stays with its graph. Store `.detach().cpu()`, and clear the store once it is used.",
    ),
    LintRule(
        "MP108",
        "TensorStoredOnContext",
        "A custom `autograd.Function` keeps a tensor as an attribute of its context.",
        "An output kept there refers to its own graph, a cycle that is freed by the garbage collector only. Use "
        "`ctx.save_for_backward`.",
    ),
    LintRule(
        "MP110",
        "TensorsHeldByTraceback",
        "An exception is kept, and with its traceback the tensors of every frame it went through.",
        "Keep its text, or retry after the `except` block has ended.",
    ),
    LintRule(
        "MP111",
        "CacheKeyedByTensors",
        "A cache keeps the tensors it was asked with.",
        "Tensors are equal only to themselves as keys: the cache never hits, and keeps every argument and result.",
    ),
    LintRule(
        "MP112",
        "WeightsUpdatedWithGraph",
        "An average or a copy of weights or features is updated with autograd on.",
        "The new value has the old one as its history, which grows with each update. Update it under "
        "`torch.no_grad()`.",
    ),
    LintRule(
        "MP113",
        "StateDictCopiesPileUp",
        "Copies of the weights pile up on the device.",
        "Each is as large as the model. Keep the best one, or copies on the host or on disk.",
    ),
    LintRule(
        "MP114",
        "OptimizerGrows",
        "Every iteration adds a parameter group to the optimizer.",
        "Groups and the state of their parameters stay as long as the optimizer. Add them once.",
    ),
    LintRule(
        "MP115",
        "ModulesGrow",
        "Every iteration adds layers to a module.",
        "They stay as long as the module, with gradients and optimizer state. Add them once.",
    ),
    LintRule(
        "MP116",
        "TensorsHeldByThread",
        "Tensors with their graph are put into a queue without a limit.",
        "What is not taken out stays, with its graph. Put `.detach().cpu()`, and limit the queue.",
    ),
    LintRule(
        "MP117",
        "DatasetKeepsTensors",
        "A dataset or collate function stores every batch it makes.",
        "The store grows with every epoch, once in each worker. Store nothing, or by index.",
    ),
    LintRule(
        "MP201",
        "EvaluationWithAutograd",
        "A model is evaluated with autograd on.",
        "Activations are saved for a backward pass that never comes. Evaluate under `torch.no_grad()`.",
    ),
    LintRule(
        "MP203",
        "FrozenBackboneWithAutograd",
        "A network that no optimizer trains runs with autograd on.",
        "Its activations are saved and its gradients computed for nothing. Run it under `torch.no_grad()`.",
    ),
    LintRule(
        "MP204",
        "GeneratorGraphInDiscriminatorStep",
        "The discriminator's backward pass goes on through the generator.",
        "Activations and gradients of the generator are kept for nothing. Detach its output.",
    ),
    LintRule(
        "MP205",
        "OutputsConcatenatedOnDevice",
        "The outputs of a whole data set are gathered on the device.",
        "They are there twice when they are concatenated. Move each to the host as it comes.",
    ),
    LintRule(
        "MP207",
        "GradientsKeptTooLong",
        "Gradients are zeroed instead of freed.",
        "They take as much as the parameters, through forward and evaluation. Leave `set_to_none` at True.",
    ),
    LintRule(
        "MP208",
        "AnomalyModeOn",
        "Autograd's anomaly mode is on for good.",
        "Every node keeps the traceback of its forward, and every backward is checked. Turn it on while debugging "
        "only.",
    ),
    LintRule(
        "MP209",
        "CheckpointKeptAfterLoading",
        "A checkpoint stays on the device while the model trains.",
        'It takes as much as the model and its optimizer state. Load it with `map_location="cpu"` and `del` it.',
    ),
    LintRule(
        "MP212",
        "ParametersUnused",
        "A module builds a layer that nothing uses.",
        "Its parameters take memory on every device the model is on, and never get a gradient. Leave it out.",
    ),
    LintRule(
        "MP312",
        "CacheEmptiedEveryIteration",
        "`torch.cuda.empty_cache()` runs in every iteration.",
        "It frees no tensor; the allocator has to ask the driver for the same memory again, and waits. Remove it.",
    ),
    LintRule(
        "MP403",
        "ParametersHiddenInContainer",
        "Layers in a plain Python container are no part of the module.",
        "`parameters()`, `to()`, and `state_dict()` do not see them. Use `nn.ModuleList` or `nn.ModuleDict`.",
    ),
)

_BY_CODE = {rule.code: rule for rule in LINT_RULES}


def lint_rule(code: str) -> LintRule:
    """The rule with a code.

    Raises:
        KeyError: There is none.
    """
    return _BY_CODE[code]
