"""Edits of the user's source that carry out a remedy, one module a family.

`RECIPES` is the list of all: which remedy of which rules, and the function that makes the changes. Of several recipes
for one remedy the first is tried first; the next ones are for where it does not work out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memprof.advise.edits.anomaly import switch_off
from memprof.advise.edits.arguments import (
    drop_create_graph,
    drop_retain_graph,
    free_gradients,
    load_to_host,
    step_one_by_one,
    zero_after_step,
)
from memprof.advise.edits.changes import Change
from memprof.advise.edits.collect import collect_each_turn
from memprof.advise.edits.context import save_for_backward
from memprof.advise.edits.copies import use_original
from memprof.advise.edits.decorators import drop_cache, drop_dictionary
from memprof.advise.edits.exceptions import drop_traceback
from memprof.advise.edits.freeze import freeze
from memprof.advise.edits.generator import detach_input
from memprof.advise.edits.hidden_state import detach_at_once, detach_other, detach_state
from memprof.advise.edits.joined import store_all_parts_on_host, store_parts_on_host
from memprof.advise.edits.kept import (
    store_detached,
    store_detached_if_tensor,
    store_detached_values,
    store_float,
    store_neighbours_on_host,
    store_nothing,
    store_number,
    store_on_host,
    store_on_host_if_tensor,
)
from memprof.advise.edits.modules import drop, register
from memprof.advise.edits.no_grad import statement_without_autograd, without_autograd, without_autograd_in_eval
from memprof.advise.edits.optimizers import forget_replaced
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.release import delete_after_last_use, delete_all_at_end_of_loop, delete_at_end_of_loop
from memprof.advise.edits.shapes import resize_linear
from memprof.advise.edits.source import SourceFile


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a remedy is carried out.

    Attributes:
        slug: The remedy.
        make: Makes the changes; () where the source has what the remedy asks for already.
        codes: Rules it is for; () for all that have no recipe of their own for this remedy.
        changes_results: Why the run computes other values afterwards, as it must; '' where it must not.
        only_after: Words in the reason for which another recipe of the remedy failed, without which this one would
            fail as well; '' for any reason.
    """

    slug: str
    make: Callable[[SourceFile, Problem], tuple[Change, ...]]
    codes: tuple[str, ...] = ()
    changes_results: str = ""
    only_after: str = ""


_SHORTER = "gradients no longer flow from one iteration into those before it"

RECIPES: tuple[Recipe, ...] = (
    Recipe("item", store_number),
    Recipe("item", store_float, only_after="no attribute 'item'"),
    Recipe("detach", detach_state, ("MP104",), _SHORTER),
    Recipe("detach", detach_other, ("MP104",), _SHORTER),
    Recipe("detach", detach_at_once, ("MP104",), _SHORTER),
    Recipe("truncate_bptt", detach_state, ("MP104",), _SHORTER),
    Recipe("detach", detach_input, ("MP204",)),
    Recipe("detach", store_detached),
    Recipe("detach", store_detached_if_tensor, only_after="no attribute 'detach'"),
    Recipe("detach", store_detached_values, only_after="'dict' object"),
    Recipe("move_to_cpu", store_on_host),
    Recipe("move_to_cpu", store_on_host_if_tensor, only_after="no attribute"),
    Recipe("move_to_cpu", store_neighbours_on_host, only_after="device"),
    Recipe("move_to_cpu", store_parts_on_host, ("MP205",)),
    Recipe("move_to_cpu", store_all_parts_on_host, ("MP205",), only_after="device"),
    Recipe("no_grad", without_autograd),
    Recipe("no_grad", statement_without_autograd),
    Recipe("no_grad", without_autograd_in_eval),
    Recipe("no_grad", statement_without_autograd, ("MP203",)),
    Recipe("del", drop_cache, ("MP111",)),
    Recipe("del", drop_dictionary, ("MP111",)),
    Recipe("del", store_nothing, ("MP117",)),
    Recipe("del", drop_dictionary, ("MP117",)),
    Recipe("del", drop_traceback, ("MP110",)),
    Recipe("del", delete_at_end_of_loop, ("MP201", "MP202")),
    Recipe("del", delete_after_last_use, ("MP209", "MP214")),
    Recipe("del", delete_all_at_end_of_loop, ("MP202",), only_after="does not help"),
    Recipe("del", forget_replaced, ("MP114",)),
    Recipe("share_tensor", use_original, ("MP215",)),
    Recipe("remove_retain_graph", drop_retain_graph),
    Recipe("remove_create_graph", drop_create_graph),
    Recipe("zero_grad", free_gradients),
    Recipe("zero_grad", zero_after_step),
    Recipe("optimizer_foreach_off", step_one_by_one),
    Recipe("freeze", freeze, ("MP203",)),
    Recipe("anomaly_off", switch_off),
    Recipe("map_location", load_to_host, ("MP209",)),
    Recipe("gc", collect_each_turn, ("MP109",)),
    Recipe("save_for_backward", save_for_backward),
    Recipe("register_module", register, (), "parameters that were hidden are trained now"),
    Recipe("drop_module", drop, ("MP212",), "layers that are built after it begin with other random values"),
    Recipe("fix_shape", resize_linear, ("MP402",), "the layer has another size"),
)


def recipes_for(code: str, slug: str) -> tuple[Recipe, ...]:
    """The recipes for a remedy of a rule, in the order to try them.

    Args:
        code: Code of the rule.
        slug: The remedy.

    Returns:
        Those made for the rule; without any, those for all rules.
    """
    of_slug = [recipe for recipe in RECIPES if recipe.slug == slug]
    own = tuple(recipe for recipe in of_slug if code in recipe.codes)
    return own or tuple(recipe for recipe in of_slug if not recipe.codes)


__all__ = ["RECIPES", "Recipe", "recipes_for"]
