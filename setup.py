from setuptools import setup
from setuptools.command.egg_info import manifest_maker

# The list of what goes into the source distribution lies with the pages, not at the top.
manifest_maker.template = "docs/MANIFEST.in"

setup()
