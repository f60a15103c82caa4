"""Cuts a PyTorch network at a named module: what runs before and with it, and what runs behind."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import fx, nn

from cdvision.errors import CdvisionError

NAMES_SHOWN = 12


class _Tracer(fx.Tracer):
    """Traces a network, but leaves the module at the split point whole."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self._split = split

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self._split or super().is_leaf_module(
            m, module_qualified_name
        )


def cut_network(network: nn.Module, split: str) -> tuple[nn.Module, nn.Module]:
    """Return front (image to features) and tail (features to outputs); parameters are shared.

    ``split`` is the name of the module whose output the tail reads, as ``named_modules`` has it.
    Raises CdvisionError where there is none, the network cannot be traced, or something else than
    that output reaches the tail.
    """
    names = [name for name, _ in network.named_modules() if name]
    if split not in names:
        names.sort(key=lambda name: name.count("."))  # the top of the tree first
        raise CdvisionError(
            f"the network has no module {split!r} to split at: expected one of {shown(names)}"
        )
    try:
        graph = _Tracer(split).trace(network)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        reason = " ".join(str(error).split())[:160]
        raise CdvisionError(
            f"the network cannot be cut at {split!r}, its code depends on values ({reason}): give "
            "--network a factory that returns the two parts itself, (front, tail)"
        ) from error
    calls = _calls(graph, split)
    if len(calls) != 1:
        raise CdvisionError(
            f"module {split!r} runs {len(calls)} times in the network: expected once"
        )
    return _front(network, graph, split), _tail(network, graph, split)


def _front(network: nn.Module, graph: fx.Graph, split: str) -> nn.Module:
    part = copy.deepcopy(graph)
    (end,) = (node for node in part.nodes if node.op == "output")
    # Where the output is the module's, all that runs behind it is dead code.
    end.args = (_calls(part, split)[0],)
    return fx.GraphModule(network, _pruned(network, part)).eval()


def _tail(network: nn.Module, graph: fx.Graph, split: str) -> nn.Module:
    part = copy.deepcopy(graph)
    (cut,) = _calls(part, split)
    with part.inserting_before(cut):
        features = part.placeholder("features")
    # Where nobody reads the module's own output, all that runs before it is dead code ...
    cut.replace_all_uses_with(features)
    part = _pruned(network, part)
    images = [n for n in part.nodes if n.op == "placeholder" and n.name != features.name]
    # ... unless something goes around the split, which still needs the image.
    if any(image.users for image in images):
        raise CdvisionError(
            f"behind {split!r} the network also reads what comes before it (a skip connection): "
            "split where one tensor carries everything"
        )
    for image in images:
        part.erase_node(image)
    return fx.GraphModule(network, part).eval()


def _pruned(network: nn.Module, graph: fx.Graph) -> fx.Graph:
    """Drop what leads nowhere; only inside a module does a graph know what has side effects."""
    graph = fx.GraphModule(network, graph).graph
    graph.eliminate_dead_code()
    return graph


def _calls(graph: fx.Graph, module: str) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_module" and node.target == module]


def shown(names: Sequence[str]) -> str:
    """Join the first names of a list that may be very long."""
    return f"{', '.join(names[:NAMES_SHOWN])}{' ...' if len(names) > NAMES_SHOWN else ''}"
