"""Reading GraphML, without building a document or a networkx graph."""

from __future__ import annotations

import os
from array import array
from typing import Any
from xml.parsers import expat

import numpy as np

from topokit.foreign import open_regular
from topokit.graph.convert import topology_of_nodes
from topokit.graph.layergraph import Topology

__all__ = ["read_graphml"]

_KEPT = ("bipartite", "type", "layer", "unit")
_DEEPEST = 100


class _Content:
    """Nodes, edges and attributes, collected while the parser goes through the file."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}  # id of a <key> of nodes -> name of the attribute
        self.defaults: dict[str, str] = {}
        self.position: dict[str, int] = {}
        self.nodes: list[dict[str, str]] = []
        self.ends: list[str] = []  # sources and targets by turns
        self.key: str | None = None  # the <key> or attribute that is open
        self.node: dict[str, str] | None = None
        self.text: list[str] | None = None
        self.graphs = self.depth = 0
        self.root = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        self.root = self.root or tag
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError(f"elements nested more than {_DEEPEST} deep")
        if tag == "edge":
            self.ends += (attributes["source"], attributes["target"])
        elif tag == "node":
            name = attributes["id"]
            if name in self.position:
                raise ValueError(f"two nodes {name!r}")
            if self.node is not None:
                raise ValueError(f"a node within a node, at {name!r}")
            self.position[name] = len(self.nodes)
            self.node = {}
            self.nodes.append(self.node)
        elif tag == "data" and self.node is not None:
            self.key = self.keys.get(attributes.get("key", ""))
            self.text = [] if self.key else None
        elif tag == "key" and attributes.get("for", "all") in ("node", "all"):
            name = attributes.get("attr.name", attributes.get("id", ""))
            self.key = name if name in _KEPT else None
            if self.key:
                self.keys[attributes["id"]] = name
        elif tag == "default" and self.key and self.node is None:
            self.text = []
        elif tag == "graph":
            self.graphs += 1
            if self.graphs > 1:
                raise ValueError("more than one graph")
        elif tag == "hyperedge":
            raise ValueError("a hyperedge, which no layer has")

    def end(self, tag: str) -> None:
        self.depth -= 1
        tag = tag.rpartition(":")[2]
        if tag in ("data", "default") and self.text is not None and self.key:
            values = self.defaults if self.node is None else self.node
            values[self.key] = "".join(self.text)[:40]
            self.text = None
        if tag == "node":
            self.node = None
        if tag in ("key", "data"):
            self.key = self.text = None

    def characters(self, text: str) -> None:
        if self.text is not None and len(self.text) < 40:
            self.text.append(text)


def _refuse_entity(*_: Any) -> None:
    raise ValueError("a declared entity, which can expand without bound")


def read_graphml(path: str | os.PathLike[str]) -> Topology:
    """Return the layers of a GraphML file.

    Parameters
    ----------
    path : path
        Nodes have attributes as in `topokit.from_networkx`; defaults of ``<key>`` apply.

    Returns
    -------
    dict of LayerGraph
        ``layer``, or ``fc1``, ``fc2``, ... if nodes say that they are in more than two layers.

    Raises
    ------
    ValueError, KeyError, xml.parsers.expat.ExpatError
        If it is no such file. Declared entities, hyperedges and nested graphs are refused.

    Notes
    -----
    One pass, O(nodes + edges): about 300 bytes of memory for each node, 60 for each edge. networkx
    builds the document and then the graph, ten times as much.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "g.graphml"
    >>> nodes = '<node id="a"><data key="k">0</data></node><node id="b"/>'
    >>> _ = path.write_text(
    ...     '<graphml><key id="k" for="node" attr.name="bipartite"><default>1</default></key>'
    ...     f'<graph>{nodes}<edge source="a" target="b"/></graph></graphml>'
    ... )
    >>> read_graphml(path)
    {'layer': LayerGraph(1 -> 1, 1 edges)}
    """
    content = _Content()
    parser = expat.ParserCreate()
    parser.StartElementHandler = content.start
    parser.EndElementHandler = content.end
    parser.CharacterDataHandler = content.characters
    parser.EntityDeclHandler = _refuse_entity
    with open_regular(path) as file:
        parser.ParseFile(file)
    if content.root != "graphml":
        raise ValueError(f"an XML file of {content.root!r}")
    ends = array("q", (content.position.get(name, -1) for name in content.ends))
    pairs = np.frombuffer(ends, np.int64).reshape(-1, 2) if ends else np.empty((0, 2), np.int64)
    if (lost := np.flatnonzero(pairs.min(axis=1, initial=0) < 0)).size:
        u, v = content.ends[2 * int(lost[0]) : 2 * int(lost[0]) + 2]
        raise ValueError(f"the edge {u!r} - {v!r}, whose nodes are not both there")
    defaults = content.defaults
    attributes = [defaults | node for node in content.nodes] if defaults else content.nodes
    return topology_of_nodes(list(content.position), attributes, pairs)
