"""The README's table: what is claimed, the figure from the newest record, and the command that records it anew.

Every row is made of records, whatever network they are of, so that a new network's figures take the place of the old
ones by running the commands and `make_tables.py` again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from records import Record, machine, newest_run

Claim = Callable[[list[Record]], str]


def conversion(records: list[Record]) -> str:
    """How far keypoints move in fp32, and in what is recommended."""
    record = records[-1]
    recommendation = record["recommendation"]
    rows = {f"{row['backend']} {row['precision']}": row for row in recommendation["rows"]}
    ship = rows[recommendation["ship"]]
    side = record["box_side_px"]
    worst = max(100 * row["deviation_px"]["max"] / side for name, row in rows.items() if name.endswith("fp32"))
    p95 = 100 * ship["deviation_px"]["p95"] / side
    return (
        f"fp32 moves none by more than {worst:.5f} % of the box, {recommendation['ship']} by {p95:.2f} % (p95), on "
        f"{ship['accuracy']['images']} photographs"
    )


def recommendation(records: list[Record]) -> str:
    """What the recommended file costs and gives beside fp32 of the same backend."""
    record = records[-1]
    rows = {f"{row['backend']} {row['precision']}": row for row in record["recommendation"]["rows"]}
    ship = rows[record["recommendation"]["ship"]]
    base = rows[f"{ship['backend']} fp32"]
    errors = [row["accuracy"]["mean_error_box_pct"] for row in (base, ship)]
    return (
        f"here {record['recommendation']['ship']}: {base['p50_ms']:.2f} ms become {ship['p50_ms']:.2f} ms, "
        f"{base['size_bytes'] / 1e6:.2f} MB become {ship['size_bytes'] / 1e6:.2f} MB, error {errors[0]:.2f} % of the "
        f"box before and {errors[1]:.2f} % after"
    )


SMALL, OF_STRANGERS = "splite_hand.safetensors", "splite_hand2_dense.safetensors"
"""Checkpoints: the smallest hand network, and the one that was trained for people and rooms of all kinds."""
LITE, FULL = "hand_landmark_lite", "hand_landmark_full"


def small_hand(records: list[Record]) -> str:
    """Our smallest network beside MediaPipe's smaller one, by the opinion of MediaPipe's full one."""
    same = [one for one in records if one["checkpoint"] == SMALL]
    record = same[-1]
    names = (record["ours"], LITE)
    (ours, theirs), (strange, theirs_strange) = (
        [record[of][name]["mean_error_box_pct"] for name in names] for of in ("accuracy", "strangers")
    )
    ratios = [one["ratios"][LITE][one["ours"]]["value"] for one in same if one["ours"] == record["ours"]]
    least, most = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    faster = f"{most} times as fast as" if least == most else f"{least} to {most} times, by processor, as fast as"
    times = record["latency"][record["ours"]]["p50_ms"], record["latency"][LITE]["p50_ms"]
    return (
        f"{faster} MediaPipe's lite landmark network (last {times[0]:.2f} and {times[1]:.2f} ms), {ours:.2f} and "
        f"{theirs:.2f} % of the box away from MediaPipe's full one, whose opinion "
        f"the labels are; on hands and rooms unlike its training {strange:.1f} and {theirs_strange:.1f} %"
    )


def hand_of_strangers(records: list[Record]) -> str:
    """Our network for people and rooms of all kinds beside both of MediaPipe's, on such photographs."""
    record = [one for one in records if one["checkpoint"] == OF_STRANGERS][-1]
    ours, lite, full = (record["strangers"][name] for name in (record["ours"], LITE, FULL))
    errors = [f"{one['mean_error_box_pct']:.1f} % (PCK@0.05 {one['pck_05']:.3f})" for one in (ours, lite, full)]
    ratios = [record["ratios"][name][record["ours"]]["value"] for name in (LITE, FULL)]
    return (
        f"SPLite Hand 2 is {errors[0]} of the box away from MediaPipe's opinion of {ours['images']} hands; another "
        f"look by MediaPipe's own lite network {errors[1]}, by its full one {errors[2]}; these take {ratios[0]:.1f} "
        f"and {ratios[1]:.1f} times as long"
    )


def tracking(records: list[Record]) -> str:
    """Our loop beside MediaPipe's, frame by frame."""
    record, other = records[-1], "solutions.hands, lite"
    times = [record["latency"][name]["p50_ms"] for name in (record["ours"], other)]
    ratio = record["ratios"][other]["value"]
    return (
        f"{ratio:.1f} times as fast as `mediapipe.solutions.hands`, lite: {times[0]:.2f} and {times[1]:.2f} ms a frame"
    )


def compaction(records: list[Record]) -> str:
    """The shipped network beside its dense parent."""
    run = {record["name"]: record for record in newest_run(records)}
    dense = run[next(iter(run.values()))["reference"]]
    thin = run[dense["name"].removesuffix("_dense")]
    errors = [record["accuracy"]["mean_error_box_pct"] for record in (dense, thin)]
    return (
        f"{thin['speed_up']['value']:.1f} times as fast as its dense parent with "
        f"{thin['size']['parameters'] / 1e3:.0f} instead of {dense['size']['parameters'] / 1e3:.0f} thousand "
        f"parameters, error {errors[0]:.2f} % before and {errors[1]:.2f} % after"
    )


def any_network(records: list[Record]) -> str:
    """How many artifacts of strangers' networks keep their limits."""
    rows = records[-1]["rows"]
    cells = [cell for row in rows for cell in row["cells"]]
    edits = sum(bool(row["edits"]) for row in rows)
    return (
        f"{sum(not cell['reason'] for cell in cells)} of {len(cells)} artifacts of {len(rows)} networks keep their "
        f"limits, the others say why; {edits} of the networks needed an edited line"
    )


def comparison(records: list[Record]) -> str:
    """How often `bench --compare` is right."""
    record = records[-1]
    same, slowed = record["outcomes"]["same"], record["outcomes"]["slowed"]
    alarms = same.get("slower", 0) + same.get("faster", 0)
    return (
        f"of {record['pairs']} pairs of runs of one file {alarms} are called different "
        f"({same.get('unclear', 0)} unclear), of {record['pairs']} made {record['slowdown']:.0%} slower "
        f"{slowed.get('slower', 0)} are found"
    )


def pipeline(records: list[Record]) -> str:
    """From whole pictures to hands that are followed, beside MediaPipe's solution."""
    lite = "solutions.hands, lite"
    record = [one for one in records if one["checkpoint"] == OF_STRANGERS and lite in one["found"]][-1]
    found, latency = record["found"], record["latency"]
    ours = [name for name in found if not name.startswith("solutions")]

    def span(values: list[float], form: str) -> str:
        return f"{min(values):{form}} to {max(values):{form}}"

    def of(names: list[str], key: str) -> list[float]:
        return [kind[key] for name in names for kind in found[name].values()]

    switches = sum(kind["switches"] for name in ours for clips, kind in found[name].items() if clips != "crossing")
    faster = [latency[lite][kind]["p50_ms"] / latency[name][kind]["p50_ms"] for name in ours for kind in found[name]]
    return (
        f"{span(of(ours, 'found_pct'), '.0f')} % of the hands in {sum(record['clips'].values())} composed clips, "
        f"{span(of(ours, 'close_pct'), '.0f')} % within 15 % of the box; `mediapipe.solutions.hands`, lite: "
        f"{span(of([lite], 'found_pct'), '.0f')} and {span(of([lite], 'close_pct'), '.0f')} %, in "
        f"{span(faster, '.1f')} times as long; {switches} ids change without crossings"
    )


CLAIMS: Mapping[str, tuple[str, Claim, str]] = {
    "Exports keep keypoints where torch finds them": (
        "precisions", conversion, "python benchmarks/precisions.py --data HAND_DIGITS --out FILE"),
    "The tool says which file to ship": (
        "precisions", recommendation, ""),
    "A small network is enough": (
        "mediapipe-hands", small_hand,
        "python benchmarks/mediapipe_hands.py --mediapipe WHEEL --data HAND_DIGITS --strangers HANDS_VARIED "
        "--out FILE"),
    "A larger one holds on people and in rooms that it never saw": (
        "mediapipe-hands", hand_of_strangers,
        "python benchmarks/mediapipe_hands.py --checkpoint models/splite_hand2/splite_hand2_dense.safetensors "
        "--mediapipe WHEEL --data HAND_DIGITS --strangers HANDS_VARIED --out FILE"),
    "So is its loop": (
        "mediapipe-solution", tracking,
        "python benchmarks/mediapipe_solution.py --bundle hand.splite --data HAND_DIGITS --out FILE"),
    "It finds and follows several hands in whole pictures": (
        "pipeline", pipeline,
        "python benchmarks/pipeline.py --bundle hand.splite --detector palm.splite --data HANDS_VARIED --out FILE"),
    "Compaction need not cost accuracy": (
        "trade-off", compaction,
        "python benchmarks/tradeoff.py dense.safetensors thin.safetensors --data HAND_DIGITS --out FILE"),
    "Networks of others work": (
        "any_network", any_network, "python benchmarks/any_network.py --out FILE"),
    "Comparisons hold on a shared machine": (
        "compare-power", comparison, "python benchmarks/compare_power.py hand.splite --out FILE"),
}  # fmt: skip
"""Claims: the kind of their records, the figure, and the command."""
KINDS = tuple(dict.fromkeys(kind for kind, _, _ in CLAIMS.values()))


def claims_block(records: Mapping[str, list[Record]]) -> list[str]:
    """The table, from the records of each kind in the order of their dates."""
    lines = ["| claim | measured | command |", "|---|---|---|"]
    for claim, (kind, figure, command) in CLAIMS.items():
        lines.append(f"| {claim} | {figure(records[kind])} | {f'`{command}`' if command else 'the same'} |")
    machines = dict.fromkeys(machine(records[kind][-1]["environment"]) for kind in KINDS)
    return [*lines, "", f"{'; '.join(machines)}, one thread; each row is of one run, so compare within a row."]
