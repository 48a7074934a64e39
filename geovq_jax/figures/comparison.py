"""Figures that compare codebooks: rate and distortion, costs, scores, distances."""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from geovq_jax.figures.style import ACCENT, CONTRAST, GRID, WIDTH, new_figure, styled


@styled
def rate_distortion(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    intervals: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    groups: Mapping[str, str] | None = None,
    rate_label: str = "rate [bits per image]",
    quality_label: str = "PSNR [dB]",
) -> Figure:
    """Quality against rate, one line per codebook: name -> (rates, qualities), in any order.

    `intervals` holds the lower and upper limits of the qualities, in the order of the rates; labels include units.
    Codebooks that `groups` maps to the same group share a colour; by default every one has its own.
    """
    groups = {name: name for name in curves} | dict(groups or {})
    cycle = itertools.cycle(rcParams["axes.prop_cycle"])
    colours = {group: next(cycle)["color"] for group in dict.fromkeys(groups[name] for name in curves)}
    many = len(curves) > 4
    figure, (axes,) = new_figure(width=WIDTH * (1.0 if many else 0.75), height=max(3.8, 0.22 * len(curves) + 0.6))
    for index, (name, (rates, qualities)) in enumerate(curves.items()):
        order = np.argsort(rates)
        rates, qualities = rates[order], qualities[order]
        # There are six colours; a repeated colour gets a different marker.
        marker = "osD^vP"[(index + index // 6) % 6]
        style = "-" if len(rates) > 1 else "none"
        colour = colours[groups[name]]
        (line,) = axes.plot(rates, qualities, color=colour, linestyle=style, marker=marker, markersize=5.0, label=name)
        if intervals is not None and name in intervals:
            low, high = (limits[order] for limits in intervals[name])
            error = np.stack([qualities - low, high - qualities])
            axes.errorbar(rates, qualities, yerr=error, fmt="none", ecolor=line.get_color(), capsize=2.5, lw=1.0)
    axes.set(xlabel=rate_label, ylabel=quality_label)
    if many:
        figure.legend(loc="outside right upper")
    else:
        axes.legend()
    return figure


@styled
def comparison(
    values: Mapping[str, float],
    label: str,
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """One row per approach, from top to bottom: its value as a dot, its interval (low, high) as a line.

    `label` names the quantity with its unit, `reference` the name and value of a level marked by a dashed line.
    """
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=1.0 + 0.34 * len(values))
    names = list(values)
    axes.plot([values[name] for name in names], names, "o", color=ACCENT, markersize=6.5)
    for row, name in enumerate(names):
        if intervals is not None and name in intervals:
            axes.plot(intervals[name], [row, row], color=ACCENT, linewidth=2.2, solid_capstyle="round")
    if reference is not None:
        axes.axvline(reference[1], color=CONTRAST, linestyle="--", linewidth=1.2, label=reference[0])
        figure.legend(loc="outside upper right")
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    return figure


@styled
def elbow(
    num_clusters: Int[np.ndarray, " m"], costs: Mapping[str, Float[np.ndarray, " m"]], *, unit: str = "squared length"
) -> Figure:
    """Clustering cost (mean squared distance to the codebook) per method against the number of codes, log-log."""
    figure, (axes,) = new_figure(width=WIDTH * 0.65, height=3.4)
    for index, (name, cost) in enumerate(costs.items()):
        axes.plot(num_clusters, cost, marker="osD^vP"[index % 6], markersize=4.5, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(num_clusters, [str(count) for count in num_clusters])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.set(xlabel="number of codes K", ylabel=f"mean cost [{unit}]")
    axes.legend()
    return figure


@styled
def distance_histogram(
    distances: Mapping[str, Float[np.ndarray, " _"]], *, unit: str = "pull-back length", bins: int = 60
) -> Figure:
    """Histograms of the finite distances, one per kind, with common bins.

    Raises ValueError if no distance is finite.
    """
    finite = {name: values[np.isfinite(values)] for name, values in distances.items()}
    everything = np.concatenate(list(finite.values()))
    if everything.size == 0:
        raise ValueError("expected finite distances, got none; choose nodes that are connected in the graph")
    edges = np.linspace(min(0.0, everything.min()), everything.max() or 1.0, bins + 1)
    figure, (axes,) = new_figure(width=WIDTH * 0.75, height=3.0)
    for name, values in finite.items():
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        colour = axes.stairs(100.0 * share, edges, fill=True, alpha=0.25).get_facecolor()[:3]
        axes.stairs(100.0 * share, edges, color=colour, linewidth=1.4, label=f"{name} ({len(values):,})")
    axes.set(xlabel=f"distance [{unit}]", ylabel="share of distances [%]")
    axes.grid(axis="x", color=GRID)
    axes.legend()
    return figure
