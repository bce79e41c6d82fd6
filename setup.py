"""What the package holds; everything else about it is said in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # twistd looks for plugins in the folders twisted/plugins of sys.path that are no packages: ours
    # holds no __init__.py, is installed beside Twisted's own, and adds one file to it.
    packages=[*find_packages(include=["zpipeline", "zpipeline.*"]), "twisted.plugins"],
    # Named, so that an editable install puts this folder on sys.path, where twistd looks: a finder,
    # which setuptools would use else, shows it zpipeline and hides the plugins.
    package_dir={"": "."},
    package_data={"zpipeline": ["py.typed"], "zpipeline.web": ["openapi.json", "ui/*"]},
)
