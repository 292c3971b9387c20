"""The recipes at the top of the repository go into a wheel as flashvsr/recipes; everything else is in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies the recipes beside the modules; an editable install finds them where they are."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for file in sorted([*Path("recipes").rglob("*.yaml"), *Path("recipes").rglob("README.md")]):
            target = Path(self.build_lib, "flashvsr", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithRecipes})
