"""The live page, in a real browser: its knobs work, and its numbers are Python's."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_barpo import lab
from sb3_barpo.lab import METHODS, Method, footbridge
from sb3_barpo.schedules import Ramp

PAGE = Path(__file__).parent.parent / "docs" / "_static" / "lab.html"
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
ADVERSARIES = {"spo": lab.clean, "arpo": lab.strongest, "barpo": lab.kl}
THETA = footbridge().policy.starts(40, seed=7)

#: What is set by hand, one after another; what is not named stays. ``at`` is a click, in w and b.
MOVES: list[dict[str, Any]] = [
    {"method": "arpo", "at": [1.2, -2.4]},
    {"at": [1.2, -0.4]},
    {"method": "spo", "at": [-2.5, -1.0]},
    {"method": "barpo", "kappa": 1, "at": [-1.0, -2.0]},
    {"clean": True},
    {"begin": 0.4, "end": 0.8},
    {"method": "arpo", "kappa": 0, "clean": False, "time": 0.5},
    {"epsilon": 0.6, "begin": 0, "end": 0, "time": 1, "at": [0.5, -3.0]},
]
#: After which of them the map of basins is waited for.
MAPPED = [0, 4]
#: Played in the page. Errors are kept from before its own script on.
EARS = "<script>window.heard = []; addEventListener('error', event => heard.push(event.message));</script>"
HANDS = """
<pre id="log"></pre>
<script>
const put = (input, kind) => input.dispatchEvent(new Event(kind, { bubbles: true }));
function move(to) {
  for (const [name, value] of Object.entries(to)) {
    if (name === "method") {
      const one = document.querySelector(`input[value=${value}]`);
      one.checked = true;
      put(one, "change");
    }
    else if (name === "clean") { $("clean").checked = value; put($("clean"), "change"); }
    else if (name === "at") {
      const box = $("landscape").getBoundingClientRect();
      const clientX = box.left + (value[0] + 4) / 8 * box.width, clientY = box.top + (4 - value[1]) / 8 * box.height;
      for (const type of ["pointerdown", "pointerup"])
        $("landscape").dispatchEvent(new PointerEvent(type, { clientX, clientY, buttons: 1 }));
    } else { $(name).value = value; put($(name), "input"); }
  }
}
const mapped = () => new Promise(done => (function look() {
  "trapped" in $("shares").dataset ? done(Number($("shares").dataset.trapped)) : setTimeout(look, 20); })());
(async () => {
  const log = { moves: [], hash: "", exact: [] };
  for (const to of MOVES) {
    move(to);
    log.moves.push({ ...$("result").dataset, start: { ...start }, settings: settings(), words: $("verdict").textContent,
      path: Array.from(path), trapped: MAPPED.includes(log.moves.length) ? await mapped() : null });
  }
  for (const method of ["spo", "arpo", "barpo"]) for (const clean of [false, true]) {
    const set = { method, clean, kappa: 0.7, epsilon: 1.2, begin: 0, end: 0.5 };
    log.exact.push(THETA.map(([w, b]) => [objective(w, b, set, 0.4), ...gradient(w, b, set, 0.4)]));
  }
  const pixels = $("landscape").getContext("2d").getImageData(0, 0, 440, 440).data;
  log.colours = new Set(Array.from({ length: 440 * 440 }, (_, i) => pixels.slice(4 * i, 4 * i + 3).join())).size;
  log.hash = location.hash;
  log.heard = heard;
  $("log").textContent = JSON.stringify(log);
})();
</script>
"""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

# What its fixtures make is made once, in one process.
pytestmark = pytest.mark.xdist_group("lab_page")


def browse(page: Path, fragment: str = "") -> str:
    """The page's elements when its scripts are done."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    url = page.as_uri() + fragment
    command = [CHROMIUM, *options, "--window-size=1100,900", "--virtual-time-budget=60000", "--dump-dom", url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page shows after each move."""
    text = PAGE.read_text(encoding="utf-8").replace("<head>", f"<head>{EARS}")
    hands = (
        HANDS.replace("of MOVES", f"of {json.dumps(MOVES)}")
        .replace("MAPPED", json.dumps(MAPPED))
        .replace("THETA", json.dumps(THETA.tolist()))
    )
    page = tmp_path_factory.mktemp("page") / "lab.html"
    page.write_text(text.replace("</body>", f"{hands}</body>"), encoding="utf-8")
    found = re.search(r'<pre id="log">(.+?)</pre>', browse(page), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def as_python(settings: dict[str, Any]) -> tuple[lab.Problem, Method]:
    begin, end = settings["begin"], settings["end"]
    strength = Ramp(1.0, end=end, begin=begin) if end > begin else 1.0
    method = Method(ADVERSARIES[settings["method"]], settings["kappa"], strength, settings["clean"], settings["clean"])
    return footbridge(epsilon=settings["epsilon"]), method


@needs_browser
def test_nothing_fails_and_a_landscape_is_drawn(log):
    assert log["heard"] == []
    assert log["colours"] >= 10


@needs_browser
def test_knobs_and_clicks_set_what_they_say(log):
    wanted = {"method": "arpo", "clean": False, "kappa": 0, "epsilon": 1.2, "begin": 0, "end": 0, "time": 1}
    for to, shown in zip(MOVES, log["moves"], strict=True):
        wanted.update({name: value for name, value in to.items() if name != "at"})
        assert shown["settings"] == wanted
        if "at" in to:
            assert [shown["start"]["w"], shown["start"]["b"]] == pytest.approx(to["at"], abs=0.02)
    assert "epsilon=0.6" in log["hash"]


@needs_browser
@pytest.mark.parametrize("i", range(len(MOVES)))
def test_paths_and_values_are_python_s(log, i):
    shown = log["moves"][i]
    problem, method = as_python(shown["settings"])
    path = lab.ascend(problem, np.array([[shown["start"]["w"], shown["start"]["b"]]]), method)[:, 0]
    assert np.array(shown["path"]).reshape(-1, 2) == pytest.approx(path, abs=0.06)  # zigzags may be out of step
    now = np.array([[float(shown["w"]), float(shown["b"])]])
    assert now[0] == pytest.approx(path[round(shown["settings"]["time"] * 800)], abs=0.06)
    assert float(shown["natural"]) == pytest.approx(problem.natural(now)[0], abs=1e-9)
    assert float(shown["worst"]) == pytest.approx(problem.robust(now)[0], abs=1e-9)
    assert shown["kind"] == lab.classify(problem, now)[0]
    value = lab.objective(problem, now, method, shown["settings"]["time"])[0]
    assert float(shown["objective"]) == pytest.approx(value, abs=1e-9)


@needs_browser
@pytest.mark.parametrize("i", MAPPED)
def test_the_map_of_basins_is_python_s(log, i):
    problem, method = as_python(log["moves"][i]["settings"])
    trapped = lab.shares(lab.basins(problem, method, points=25))["trapped"]
    assert log["moves"][i]["trapped"] == pytest.approx(trapped, abs=0.01)


@needs_browser
def test_objectives_and_gradients_are_python_s(log):
    problem, found = footbridge(), iter(log["exact"])
    for adversary in ADVERSARIES.values():
        for clean in (False, True):
            method = Method(adversary, 0.7, "ramp_1_0.5", clean, clean)
            value = lab.objective(problem, THETA, method, 0.4)
            expected = np.column_stack([value, lab.gradient(problem, THETA, method, 0.4)])
            assert np.array(next(found)) == pytest.approx(expected, abs=1e-9)


@needs_browser
def test_the_address_keeps_the_settings(tmp_path):
    page = tmp_path / "lab.html"
    shutil.copy(PAGE, page)
    shown = browse(page, "#method=barpo&kappa=1&clean=1&w=-2&b=-2")
    assert re.search(r'data-kind="trapped"', shown)
    assert re.search(r"Where each start ends: 29 % trapped", shown)


def test_the_page_is_self_contained():
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"\bsrc=|@import|url\(|fetch\(|XMLHttpRequest|https?://", text)
    assert re.findall(r'href="([^"]*)"', text) == ["../lab.html"]


def test_the_page_has_the_defaults_of_the_lab():
    text = PAGE.read_text(encoding="utf-8")
    assert "STEPS = 800, STEP_SIZE = 0.05" in text
    assert f"OBSERVATIONS = {[int(o) for o in footbridge().policy.observations]}" in text
    assert f"REWARDS = {footbridge().mdp.rewards.tolist()}".replace(".0", "") in text.replace(".0", "")
    assert list(METHODS)[:2] == ["SPO", "ARPO"]
