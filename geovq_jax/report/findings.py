"""Conclusions from a run in sentences, and what to try next: pure functions of the numbers in report/metrics.json.

`W` in a command stands for the work directory.
"""

from typing import Any, NamedTuple

import numpy as np

from geovq_jax.report.page import Finding

_SAME = 0.1  # decibels; smaller differences count as none
_UNUSED = 0.1  # share of codes that may stay unused
_SPREAD = 1.5  # 95 % over 5 % quantile of pull-back / Euclidean edge lengths above which a metric is not flat
_LEARNT = 0.2  # share of the mean image's squared error that a trained autoencoder removes at least
_SURER = 0.01  # smaller differences of mean confidence count as none
_RUN = "python -m geovq_jax.run --workdir=W"


class Suggestion(NamedTuple):
    """A command worth running next, and its `reason` in the numbers of the run."""

    reason: str
    command: str


def findings(metrics: dict[str, Any]) -> list[Finding]:
    """Conclusions from the numbers of a run, without those whose numbers were not measured.

    Args:
        metrics: content of report/metrics.json.

    Returns:
        Five to eight findings, most important first.
    """
    first = next_commands(metrics)[0]
    found = [
        Finding("Quality", quality(metrics), "rate-distortion"),
        Finding("Source of error", error_share(metrics), "reconstructions"),
        Finding("Metric", metric_spread(metrics), "edge-lengths"),
        Finding("Its gain", metric_gain(metrics), "rate-distortion"),
        Finding("Codes", code_use(metrics), "code-usage"),
        Finding("Samples", sample_quality(metrics), "samples"),
        Finding("Paths", path_quality(metrics), "interpolation"),
        Finding("Next", f"{first.reason[0].upper()}{first.reason[1:]}: `{first.command}`", "next-commands"),
    ]
    return [finding for finding in found if finding.sentence]


def quality(metrics: dict[str, Any]) -> str:
    """Coded bits and PSNR of the codes, against simpler coders and codebooks."""
    prior, codes = metrics["prior"], metrics["run"]["codes_per_image"]
    simple = "bigram" if codes > 1 else "unigram"
    bits, alone, counts, fixed = (
        prior[name]["bits_per_image"] for name in ("gpt", "gpt_without_class", simple, "uniform")
    )
    saved = 100.0 * (1.0 - alone / counts)
    verdict = f"{saved:.0f} % fewer" if saved >= 0.5 else "no fewer"
    text = (
        f"{metrics['images']['truth-quantized']['psnr']:.2f} dB PSNR at {bits:.1f} coded bits per image "
        f"({count(codes, 'code')} at {prior['gpt']['bits_per_code']:.2f} bits under the prior given the class). "
        f"Without the class it takes {alone:.1f} bits, {verdict} than {simple} counts ({counts:.1f}); fixed-length "
        f"codes take {fixed:.0f}."
    )
    sweep = metrics["sizes"]
    best = max((kind for kind in ("pullback", "euclidean") if kind in sweep), key=lambda kind: sweep[kind]["psnr"][-1])
    return (
        f"{text} K-medoids of {sweep['sizes'][-1]} codes, decoder not fine-tuned: {sweep[best]['psnr'][-1]:.2f} dB at "
        f"{sweep[best]['bits_per_image'][-1]:.1f} bits."
    )


def quantization_share(metrics: dict[str, Any]) -> float:
    """Share of the mean squared error of decoded codes that decoded latents do not have."""
    return 1.0 - metrics["errors"]["continuous"] / metrics["errors"]["quantized"]


def learnt_share(metrics: dict[str, Any]) -> float:
    """Share of the squared error of the mean training image that decoded latents do not have; at least 0."""
    return max(0.0, 1.0 - metrics["errors"]["continuous"] / metrics["errors"]["mean image"])


def error_share(metrics: dict[str, Any]) -> str:
    """Whether quantization or the autoencoder causes the error."""
    share, reach = quantization_share(metrics), metrics["images"]["truth-continuous"]["psnr"]
    if learnt_share(metrics) < _LEARNT:
        return (
            f"The autoencoder has learnt little: the squared error of its reconstructions ({reach:.2f} dB) is "
            f"{100 * learnt_share(metrics):.0f} % below that of the mean training image. "
            "Train it longer before reading on."
        )
    if share <= 0.0:
        return (
            "Quantization adds no squared error: the fine-tuned decoder is at least as good on codes as the "
            f"autoencoder is on continuous latents ({reach:.2f} dB)."
        )
    rest = 100 * (1 - share)
    parts = f"{100 * share:.0f} % of the squared error comes from quantization, {rest:.0f} % from the autoencoder"
    if share > 0.5:
        return f"{parts}: quantization dominates; without it, reconstructions reach {reach:.2f} dB."
    return f"{parts}: the autoencoder dominates; even without quantization, reconstructions reach only {reach:.2f} dB."


def metric_spread(metrics: dict[str, Any]) -> str:
    """Whether the pull-back metric is more than a multiple of the Euclidean one."""
    edges = metrics["geometry"]["edges"]
    low, high = edges["ratio_low"], edges["ratio_high"]
    if not low or low <= 0.0:
        return ""
    differs = "differs from" if high / low > _SPREAD else "is close to a multiple of"
    return (
        f"The decoder's metric {differs} the Euclidean one: steps of equal Euclidean length differ in pull-back length "
        f"by a factor of {high / low:.3g} (5 % to 95 % of edges; rank correlation {edges['rank_correlation']:.2f})."
    )


def gain_at_equal_bits(sweep: dict[str, Any]) -> float | None:
    """Mean PSNR of pull-back minus Euclidean K-medoids [dB], over the coded bits of both; None without both."""
    if not {"pullback", "euclidean"} <= sweep.keys():
        return None
    curves = [
        [np.asarray(sweep[kind][name]) for name in ("bits_per_image", "psnr")] for kind in ("pullback", "euclidean")
    ]
    low, high = max(bits.min() for bits, _ in curves), min(bits.max() for bits, _ in curves)
    if low >= high:
        return None
    grid = np.linspace(low, high, 65)
    first, second = (np.interp(grid, bits[order := np.argsort(bits)], psnr[order]) for bits, psnr in curves)
    return float(np.mean(first - second))


def metric_gain(metrics: dict[str, Any]) -> str:
    """What clustering in the pull-back metric gains over the Euclidean one."""
    sweep = metrics["sizes"]
    gain = gain_at_equal_bits(sweep)
    if gain is None:
        return ""
    equal, size = sweep["pullback"]["psnr"][-1] - sweep["euclidean"]["psnr"][-1], sweep["sizes"][-1]
    kinds = "K-medoids along pull-back instead of Euclidean lengths"
    if max(abs(gain), abs(equal)) < _SAME:
        return f"{kinds} change nothing: {signed(gain)} dB at equal coded bits, {signed(equal)} dB at equal K = {size}."
    text = f"{kinds} {_decibels(gain)} at equal coded bits, and {_decibels(equal)} at equal K = {size}"
    few = sweep["pullback"]["psnr"][0] - sweep["euclidean"]["psnr"][0]
    return f"{text}." if abs(few - equal) < _SAME else f"{text} ({signed(few)} dB at K = {sweep['sizes'][0]})."


def _decibels(gain: float) -> str:
    if abs(gain) < _SAME:
        return f"change nothing ({signed(gain)} dB)"
    return f"{'gain' if gain > 0 else 'lose'} {abs(gain):.2f} dB"


def unused_share(codes: dict[str, Any]) -> float:
    """Share of codes that no training image uses; a test split can be too small to show every code."""
    return codes["unused_in_training"] / codes["num_codes"]


def code_use(metrics: dict[str, Any]) -> str:
    """Whether the codes are used."""
    codes = metrics["codes"]
    text = (
        f"{codes['used']} of {codes['num_codes']} codes occur in the test split, perplexity {codes['perplexity']:.0f}; "
        f"{codes['num_codes'] - codes['unused_in_training']} in the training split"
    )
    if unused_share(codes) > _UNUSED:
        return f"{text}: {100 * unused_share(codes):.0f} % of the codebook is wasted."
    return f"{text}: the codebook is well used."


def own_samples(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Scores of the samples at the guidance of the run; None if nothing was scored."""
    return metrics["scores"].get("sets", {}).get(f"samples, guidance {metrics['run']['guidance']:g}")


def samples_are_good(metrics: dict[str, Any]) -> bool:
    """Whether the intervals of the Frechet distances of samples and of real images overlap."""
    own, real = own_samples(metrics), metrics["scores"]["sets"]["real"]
    return own is not None and own["frechet"]["low"] <= real["frechet"]["high"]


def sample_quality(metrics: dict[str, Any]) -> str:
    """How far samples are from real images, and whether they copy training images."""
    own = own_samples(metrics)
    if own is None:
        return ""
    real = metrics["scores"]["sets"]["real"]
    verdict = "as close to the test images as real images are, within the intervals"
    if not samples_are_good(metrics):
        verdict = "farther from the test images than real images are"
    close = own["memorisation"]["share_close"]
    copies = "; some copy training images" if close["low"] > 2 * 0.05 else ""
    return (
        f"Samples are {verdict} (Frechet distance {own['frechet']['value']:.2f}, real {real['frechet']['value']:.2f}); "
        f"the classifier assigns {100 * own['consistency']['value']:.0f} % to the requested class "
        f"(real {100 * real['consistency']['value']:.0f} %){copies}."
    )


def path_quality(metrics: dict[str, Any]) -> str:
    """Whether geodesics stay on the data, against straight lines."""
    paths = metrics.get("interpolation", {}).get("paths", {})
    names = [name for name in paths if name.endswith("geodesic")]
    if "straight" not in paths or not names:
        return ""
    straight, path = paths["straight"], paths[names[-1]]
    gain, sure = (
        path["confidence"] - straight["confidence"],
        f"{path['confidence']:.2f} against {straight['confidence']:.2f}",
    )
    if gain < -_SURER:
        verdict = f"the classifier is less confident along them ({sure}), as along a cross-fade"
    elif gain > _SURER:
        verdict = f"the classifier is more confident along them ({sure}), so they stay closer to the data"
    else:
        verdict = f"the classifier is equally confident along them ({sure})"
    saved = 100 * (1 - path["length"] / straight["length"])
    shorter = f"{saved:.0f} % shorter than" if saved >= 0.5 else "as long as"
    return (
        f"{names[-1].capitalize()}s are {shorter} straight lines; {verdict}; the nearest training image is "
        f"{path['distance']:.3f} away (RMS), {straight['distance']:.3f} for straight lines."
    )


def next_commands(metrics: dict[str, Any]) -> list[Suggestion]:
    """The commands most worth running next, best first; at least two."""
    run, codes, found = metrics["run"], metrics["codes"], []

    def suggest(reason: str, key: str, value: Any) -> None:
        found.append(Suggestion(reason, f"{_RUN} --config.{key}={value}"))

    if unused_share(codes) > _UNUSED:
        suggest("codes are unused; try fewer", "codebook.num_clusters", max(2, run["num_codes"] // 2))
    if quantization_share(metrics) > 0.5:
        if run["kind"] == "spatial" and run["search"] == "none":
            suggest("quantization dominates the error; search the codes", "codes.search", "context")
        else:
            suggest("quantization dominates the error; try more codes", "codebook.num_clusters", 2 * run["num_codes"])
    elif run["vae_best_step"] and run["vae_best_step"] >= 0.9 * run["vae_steps"]:
        reason = "the autoencoder dominates the error and is still improving; train it longer"
        suggest(reason, run["vae_length"], 2 * run["vae_steps"])
    elif run["vae_best_step"]:
        suggest("the autoencoder dominates the error; try wider latents", "vae.latent_dim", 2 * run["latent_dim"])
    if own_samples(metrics) is not None and not samples_are_good(metrics):
        if run["prior_best_step"] >= 0.9 * run["prior_steps"]:
            reason = "samples fall short of real images and the prior is still improving; train it longer"
            suggest(reason, "prior.num_steps", 2 * run["prior_steps"])
        else:
            dropout = round(min(0.5, run["prior_dropout"] + 0.1), 3)
            reason = "samples fall short of real images and the prior overfits; raise its dropout"
            suggest(reason, "prior.dropout", dropout)
    if run["search"] == "context" and not run["rate_weight"]:
        suggest("the code search ignores the rate; give it a weight", "codes.rate_weight", 0.1)
    elif run["kind"] == "spatial" and run["search"] == "none" and quantization_share(metrics) <= 0.5:
        suggest("codes are not searched; search them", "codes.search", "context")
    found.append(Suggestion("explore latents, paths and codes", "python -m geovq_jax.explore --workdir=W"))
    found.append(Suggestion("draw cleaner samples", "python -m geovq_jax.generate --workdir=W --guidance=2"))
    return found


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"{value:+.2f}".replace("-", "−")
