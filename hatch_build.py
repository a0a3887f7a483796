"""The project's description on an index of packages: README without what leads nowhere there.

An index shows the text of README away from the repository. Pictures of the repository are left out,
and of a link to one of its files the words are kept; where pyproject.toml gives this hook the
address of a ``repository``, they lead there instead.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


def described(text: str, repository: str = "") -> str:
    """Return the text of README for an index."""

    def link(match: re.Match[str]) -> str:
        mark, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match.group(0)
        if repository:
            return f"{mark}[{words}]({repository.rstrip('/')}/{target})"
        return "" if mark else words

    text = re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", link, text)
    return re.sub(r"\n{3,}", "\n\n", text)


class Description(MetadataHookInterface):
    """Sets the field ``readme``."""

    def update(self, metadata: dict) -> None:
        """Read README and put its text for an index into the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = self.config.get("repository", "")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": described(text, repository),
        }
