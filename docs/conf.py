"""Configuration of the documentation build."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE / "_ext")]

import generate_rules  # noqa: E402 - found through the path set above

from memprof._version import __version__  # noqa: E402

# Pages of rules are made from the rules, whether or not somebody has run the generator.
generate_rules.write(generate_rules.rule_pages(), generate_rules.RULES_DIR)

project = "memprof"
author = "memprof contributors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "command_help",
    "gpu_table",
    "module_list",
    "report_schema",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Source", "params_style")]

html_theme = "furo"
html_title = f"memprof {release}"
html_static_path = ["_static"]
