"""Configuration of the site: `make docs` builds it into docs/_build/html, without a network."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models of the gallery are too small for more

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # site_hooks, and the packages

from divergences import __version__  # noqa: E402

project = "divergences"
author = "The divergences authors"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "site_hooks",
]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    # types that have no page
    ("py:class", r"Group|KernelLike|Estimator|Scaling|Tensor|Module|nn.Module|Figure|NDArray"),
    ("py:class", r"Method|KernelMatrix|Rng|Labels|Blocks|Scale|Location|Checkpoint"),
    ("py:class", r"np\.float64|torch\.nn\.modules\.module\.Module"),
    ("py:class", r"divergences\.(critic|encoding|kernels\.kernel|plots\.results)\.\w+"),
    ("py:class", r"divergences\.results\.R"),  # a type variable
    ("py:class", r"vae\.objectives\.lambda_heuristic\.Autoencoder|lightning\..*"),
]

# --- Text ---------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# --- API ----------------------------------------------------------------------------------------

default_role = "py:obj"  # `name` is a link where there is such a name
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "extra_repr"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# The inventories are lists of the few names that our signatures use, so that no build needs the
# network; a missing name is a warning, and is added to its file by hand.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.txt"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.txt"),
    "numpy": ("https://numpy.org/doc/stable/", "inventories/numpy.txt"),
    "scipy": ("https://docs.scipy.org/doc/scipy/", "inventories/scipy.txt"),
    "matplotlib": ("https://matplotlib.org/stable/", "inventories/matplotlib.txt"),
}

# --- Gallery ------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!plot_)",
    "abort_on_example_error": True,
    "reset_argv": "site_hooks.argv",
    "reset_modules": ("matplotlib", "site_hooks.look"),
    "image_scrapers": ("matplotlib", "site_hooks.returned_figures"),
    "image_srcset": ["2x"],
    "capture_repr": (),
    "reference_url": {"divergences": None, "vae": None},
    "doc_module": ("divergences", "vae"),
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "plot_gallery": "True",
}

# --- Links, which `make links` follows -----------------------------------------------------------

linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_workers = 4

# --- Look ---------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"divergences {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
