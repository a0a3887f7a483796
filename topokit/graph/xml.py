"""Reading and writing GraphML and GEXF, without building a document or a networkx graph."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from topokit.foreign import open_regular, printable
from topokit.graph.files import write_atomic
from topokit.graph.layergraph import Topology
from topokit.graph.networks import (
    check_chain,
    edge_pairs,
    node_attributes,
    topology_of_nodes,
)

__all__ = ["read_gexf", "read_graphml", "write_xml"]

_KEPT = {"bipartite": 40, "type": 40, "layer": 40, "unit": 40, "layer_name": 1001}
"""Attributes of nodes that are read, and how many characters of their values."""
_DEEPEST = 100


class _Content:
    """Nodes, edges and attributes, collected while the parser goes through the file."""

    root = ""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}  # id of an attribute of nodes -> its name
        self.defaults: dict[str, str] = {}
        self.position: dict[str, int] = {}
        self.nodes: list[dict[str, str]] = []
        self.ends: list[str] = []  # sources and targets by turns
        self.key: str | None = None  # the attribute that is open, declared or given
        self.node: dict[str, str] | None = None
        self.text: list[str] | None = None
        self.graphs = self.depth = self.read = 0
        self.found = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        self.found = self.found or tag
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
        elif tag == "default" and self.key and self.node is None:
            self.text, self.read = [], 0
        elif tag == "graph":
            self.graphs += 1
            if self.graphs > 1:
                raise ValueError("more than one graph")
        self.own(tag, attributes)

    def own(self, tag: str, attributes: dict[str, str]) -> None:
        """Take an element that only this format has."""
        raise NotImplementedError  # abstract: every format defines it

    def declare(self, key: str, name: str) -> None:
        """Note the declaration of an attribute of nodes."""
        self.key = name if name in _KEPT else None
        if self.key:
            self.keys[key] = name

    def end(self, tag: str) -> None:
        self.depth -= 1
        tag = tag.rpartition(":")[2]
        if tag in ("data", "default") and self.text is not None and self.key:
            values = self.defaults if self.node is None else self.node
            values[self.key] = "".join(self.text)[: _KEPT[self.key]]
            self.text = None
        if tag == "node":
            self.node = None
        if tag in ("key", "data", "attribute"):
            self.key = self.text = None

    def characters(self, text: str) -> None:
        if self.text is not None and self.key and self.read < _KEPT[self.key]:
            self.text.append(text)
            self.read += len(text)

    def topology(self) -> Topology:
        """Return the layers, when the parser has come to the end."""
        if self.found != self.root:
            raise ValueError(f"an XML file of {self.found!r}")
        ends = array("q", (self.position.get(name, -1) for name in self.ends))
        pairs = np.frombuffer(ends, np.int64).reshape(-1, 2) if ends else np.empty((0, 2), np.int64)
        if (lost := np.flatnonzero(pairs.min(axis=1, initial=0) < 0)).size:
            u, v = self.ends[2 * int(lost[0]) : 2 * int(lost[0]) + 2]
            raise ValueError(f"the edge {u!r} - {v!r}, whose nodes are not both there")
        defaults = self.defaults
        attributes = [defaults | node for node in self.nodes] if defaults else self.nodes
        return topology_of_nodes(list(self.position), attributes, pairs)


class _GraphML(_Content):
    root = "graphml"

    def own(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "data" and self.node is not None:
            self.key = self.keys.get(attributes.get("key", ""))
            self.text, self.read = ([] if self.key else None), 0
        elif tag == "key" and attributes.get("for", "all") in ("node", "all"):
            self.declare(attributes["id"], attributes.get("attr.name", attributes["id"]))
        elif tag == "hyperedge":
            raise ValueError("a hyperedge, which no layer has")


class _GEXF(_Content):
    root = "gexf"

    def __init__(self) -> None:
        super().__init__()
        self.of_nodes = False  # whether attributes of nodes are being declared

    def own(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "attributes":
            self.of_nodes = attributes.get("class") == "node"
        elif tag == "attribute" and self.of_nodes:
            self.declare(attributes["id"], attributes.get("title", attributes["id"]))
        elif tag == "attvalue" and self.node is not None:
            # The first versions of the format say id where the later ones say for.
            key = self.keys.get(attributes.get("for", attributes.get("id", "")))
            if key and key in self.node:
                raise ValueError(f"two values of {key!r} for one node")
            if key:
                self.node[key] = attributes["value"][: _KEPT[key]]
        elif tag == "graph" and attributes.get("mode", "static") != "static":
            raise ValueError(f"a graph of the mode {attributes['mode']!r}, expected a static one")


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
        Named by the nodes' ``layer_name``, else ``layer``, or ``fc1``, ``fc2``, ... if nodes say
        that they are in more than two layers.

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
    return _parsed(path, _GraphML())


def read_gexf(path: str | os.PathLike[str]) -> Topology:
    """Return the layers of a GEXF file, the format of Gephi.

    Parameters
    ----------
    path : path
        Nodes have attributes as in `topokit.from_networkx`; the defaults of attributes apply.

    Returns
    -------
    dict of LayerGraph
        As in `read_graphml`.

    Raises
    ------
    ValueError, KeyError, xml.parsers.expat.ExpatError
        If it is no such file. Declared entities, nodes within nodes and dynamic graphs are refused.

    Notes
    -----
    As `read_graphml`.

    References
    ----------
    .. [1] GEXF 1.3, https://gexf.net.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "g.gexf"
    >>> _ = path.write_text(
    ...     '<gexf version="1.3"><graph><attributes class="node"><attribute id="0" title="type" '
    ...     'type="boolean"><default>false</default></attribute></attributes><nodes>'
    ...     '<node id="a"/><node id="b"><attvalues><attvalue for="0" value="true"/></attvalues>'
    ...     '</node></nodes><edges><edge source="b" target="a"/></edges></graph></gexf>'
    ... )
    >>> read_gexf(path)
    {'layer': LayerGraph(1 -> 1, 1 edges)}
    """
    return _parsed(path, _GEXF())


def _parsed(path: str | os.PathLike[str], content: _Content) -> Topology:
    parser = expat.ParserCreate()
    parser.StartElementHandler = content.start
    parser.EndElementHandler = content.end
    parser.CharacterDataHandler = content.characters
    parser.EntityDeclHandler = _refuse_entity
    with open_regular(path) as file:
        parser.ParseFile(file)
    return content.topology()


_TYPES = {"bipartite": "int", "layer": "int", "unit": "int", "layer_name": "string"}


def write_xml(path: str | os.PathLike[str], topology: Topology, suffix: str) -> None:
    """Write a topology whose layers chain as GraphML or GEXF.

    Parameters
    ----------
    path : path
        Written under a temporary name in the same folder, then renamed.
    topology : dict of LayerGraph
    suffix : {".graphml", ".gexf"}
        The format.

    Raises
    ------
    ValueError
        If the layers do not chain, or a layer has no units.

    Notes
    -----
    One pass, O(units + edges); nothing is kept in memory. Control characters in names of layers,
    which XML cannot hold, are escaped.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from topokit.graph.layergraph import LayerGraph
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "g.gexf"
    >>> write_xml(path, {"fc1": LayerGraph.from_edge_ids([1], (1, 2))}, ".gexf")
    >>> read_gexf(path)
    {'fc1': LayerGraph(2 -> 1, 1 edges)}
    """
    widths = check_chain(topology)
    if not all(widths):
        raise ValueError(f"expected layers with units, got the widths {widths}")
    pairs = edge_pairs(topology)
    gexf = suffix == ".gexf"
    with write_atomic(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        if gexf:
            # Version 1.2, which more readers know: networkx 3.3 does not know 1.3.
            file.write('<gexf xmlns="http://www.gexf.net/1.2draft" version="1.2">\n')
            file.write('<graph defaultedgetype="undirected" mode="static">\n')
            file.write('<attributes class="node" mode="static">\n')
            for key, kind in _TYPES.items():
                kind = "integer" if kind == "int" else kind
                file.write(f'<attribute id="{key}" title="{key}" type="{kind}"/>\n')
            file.write("</attributes>\n<nodes>\n")
        else:
            file.write('<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
            for key, kind in _TYPES.items():
                file.write(f'<key id="{key}" for="node" attr.name="{key}" attr.type="{kind}"/>\n')
            file.write('<graph edgedefault="undirected">\n')
        for at, node in enumerate(node_attributes(topology)):
            values = {key: printable(str(value)) for key, value in node.items()}
            if gexf:
                inner = "".join(
                    f'<attvalue for="{key}" value={quoteattr(value)}/>'
                    for key, value in values.items()
                )
                file.write(f'<node id="{at}" label="{at}"><attvalues>{inner}</attvalues></node>\n')
            else:
                inner = "".join(
                    f'<data key="{key}">{escape(value)}</data>' for key, value in values.items()
                )
                file.write(f'<node id="{at}">{inner}</node>\n')
        if gexf:
            file.write("</nodes>\n<edges>\n")
        for start in range(0, len(pairs), 100_000):
            file.writelines(
                f'<edge id="{start + i}" source="{u}" target="{v}"/>\n'
                for i, (u, v) in enumerate(pairs[start : start + 100_000].tolist())
            )
        file.write("</edges>\n</graph>\n</gexf>\n" if gexf else "</graph>\n</graphml>\n")
