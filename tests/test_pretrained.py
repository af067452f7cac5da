"""Pretrained agents: packed from a comparison, verified, loaded."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from brief import BRIEF
from pages import blocks

import sb3_barpo
from sb3_barpo import BARPO, compare, load_pretrained
from sb3_barpo.agents import pretrained
from sb3_barpo.agents.pretrained import SUMS, verify, write_sums
from sb3_barpo.attacks import LearnedAttack, RobustSarsa
from sb3_barpo.cli import main
from sb3_barpo.comparison import pages
from sb3_barpo.comparison.medians import pack_medians
from sb3_barpo.evaluation import budgets, evaluate_robustness
from sb3_barpo.evaluation.budgets import Budget, Member

pytest.importorskip("yaml")

STEM = "robust-Brief-v0"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Agents of three seeds, attacked, of which the median is packed."""
    folder = tmp_path_factory.mktemp("packed")
    tiny = [Member("robust_sarsa", 64, {"batch_size": 16, "n_epochs": 1, "sarsa_epsilon": r}) for r in (0.1, 0.2)]
    short = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_PICTURES", {})
        patch.setitem(budgets.BUDGETS, "quick", lambda *_: Budget({"robust_sarsa": tiny}, n_episodes=2))
        compare(
            ["ppo", {"algo": "barpo", "label": "robust"}],
            BRIEF,
            [0, 1, 2],
            steps=32,
            hyperparams=short,
            attacks=["random", "robust_sarsa"],
            budget="quick",
            n_eval_episodes=2,
            output=folder / "comparison",
        )
    pack_medians(folder / "comparison", folder / "pretrained", ["robust"])
    return folder


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed / "pretrained", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def worst_cases(packed: Path) -> dict[str, float]:
    import pandas as pd

    agents = pd.read_csv(packed / "comparison" / "agents.csv")
    agents = agents[agents["algorithm"] == "robust"]
    return dict(zip(agents["agent"], agents["worst_case"], strict=True))


def test_the_median_is_packed_with_all_that_belongs_to_it(packed: Path) -> None:
    place = packed / "pretrained" / STEM
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == {
        f"{STEM}.zip", "vec_normalize.pkl", "config.yml", "args.yml", "env_kwargs.yml", "train_eval_metrics.zip",
        "results.json", "README.md", "LICENSE", "SHA256SUMS", "attacks/robust_sarsa.zip",
    }  # fmt: skip
    returns = worst_cases(packed)
    median = sorted(returns, key=lambda name: returns[name])[1]
    original = packed / "comparison" / "Brief-v0" / "agents" / median / "agent.zip"
    assert (place / f"{STEM}.zip").read_bytes() == original.read_bytes()
    assert [path.name for path in (packed / "pretrained").iterdir()] == [STEM]


def test_it_is_loaded_and_acts_as_before(packed: Path) -> None:
    agent = load_pretrained("robust", BRIEF, packed / "pretrained", n_envs=2)
    assert (agent.name, type(agent.model)) == (STEM, BARPO)
    assert agent.statistics == packed / "pretrained" / STEM / "vec_normalize.pkl"
    attack = RobustSarsa.load(packed / "pretrained" / STEM / "attacks" / "robust_sarsa.zip", agent.model)
    report = evaluate_robustness(agent.model, agent.venv, ["random", attack], n_eval_episodes=2, seed=10_000)
    assert report.worst_case == pytest.approx(sorted(worst_cases(packed).values())[1], abs=1e-9)
    (also,) = [load_pretrained("robust", BRIEF, packed / "pretrained" / STEM)]  # its own folder
    assert also.file == agent.file


def test_the_card_says_what_it_is_and_its_code_runs(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = packed / "pretrained" / STEM
    card = (place / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: stable-baselines3\nlicense: mit\n")
    assert "# robust on Brief-v0" in card
    assert "The median, by its worst case, of 3 agents" in card
    assert "2 episodes (seeds 10000 to 10001)" in card
    assert "n_steps: 32" in card
    assert "label: robust" in card  # the comparison's settings
    monkeypatch.setattr(pretrained, "INSTALLED", packed / "pretrained")
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    for _, code in blocks(place / "README.md"):
        exec(code, names)
    assert names["attack"].name == "robust_sarsa"


def test_the_zoo_can_load_it(packed: Path, tmp_path: Path) -> None:
    """Its program to load from the Hub puts these files where its others find them."""
    pytest.importorskip("rl_zoo3")
    from rl_zoo3 import load_from_hub
    from rl_zoo3.utils import get_saved_hyperparams

    place = packed / "pretrained" / STEM
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_from_hub, "load_from_hub", lambda repo_id, name: str(place / name))
        load_from_hub.download_from_hub("robust", load_from_hub.EnvironmentName("Brief-v0"), 0, str(tmp_path), "us")
    folder = tmp_path / "robust" / "Brief-v0_1"
    settings, statistics = get_saved_hyperparams(str(folder / "Brief-v0"))
    assert settings["n_steps"] == 32
    assert settings["normalize"]
    assert statistics
    assert (folder / "Brief-v0.zip").exists()


@pytest.mark.parametrize("name", [f"{STEM}.zip", "vec_normalize.pkl", "args.yml", "attacks/robust_sarsa.zip"])
def test_a_changed_file_is_refused_before_it_is_unpickled(
    name: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = copied / STEM / name
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes() + b"!")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(pretrained, "load_agent", lambda *args, **kwargs: pytest.fail("It was loaded."))
    with pytest.raises(ValueError, match=f"{name}'.*its SHA-256 is {found}, but {expected} was expected"):
        load_pretrained("robust", BRIEF, copied)


def test_files_that_are_missing_or_not_listed(copied: Path) -> None:
    place = copied / STEM
    (place / ".gitattributes").write_text("")  # hidden files are not read
    assert f"{STEM}.zip" in verify(place)
    (place / "Brief-v0").mkdir()
    (place / "Brief-v0" / "config.yml").write_text("env_wrapper: evil")  # would be read
    with pytest.raises(ValueError, match=r"does not list Brief-v0/config\.yml"):
        load_pretrained("robust", BRIEF, copied)
    shutil.rmtree(place / "Brief-v0")
    (place / "vec_normalize.pkl").unlink()
    with pytest.raises(ValueError, match=r"lists 'vec_normalize.pkl', but .* is missing"):
        load_pretrained("robust", BRIEF, copied)
    write_sums(place)
    with pytest.raises(ValueError, match="whose statistics it needs"):  # trained with statistics, says its own file
        load_pretrained("robust", BRIEF, copied)
    (place / SUMS).unlink()
    with pytest.raises(FileNotFoundError, match="not loaded as pretrained"):
        load_pretrained("robust", BRIEF, copied)


@pytest.mark.parametrize("line", ["0" * 63 + "  a", "0" * 64 + "  ../a", "0" * 64 + "  /a", "nothing"])
def test_a_list_that_is_none(line: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(line)
    with pytest.raises(ValueError, match="a SHA-256 and a file of its folder in each line"):
        verify(tmp_path)


def test_agents_that_are_not_there(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no pretrained agent 'arpo-Brief-v0' in .*There are {STEM}"):
        load_pretrained("arpo", BRIEF, packed / "pretrained")
    with pytest.raises(FileNotFoundError, match="It holds none"):
        load_pretrained("arpo", BRIEF, tmp_path)
    with pytest.raises(ValueError, match=r"lists no arpo-Brief-v0\.zip: it is the folder of another agent"):
        load_pretrained("arpo", BRIEF, packed / "pretrained" / STEM)
    with pytest.raises(ValueError, match="from a folder or from the Hub, but both"):
        load_pretrained("arpo", BRIEF, tmp_path, hub="us")


def test_agents_from_the_hub(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[Any] = []

    def download(repo_id: str, name: str, revision: str | None) -> str:
        asked.append((repo_id, name, revision))
        return str(packed / "pretrained" / STEM / name)

    def snapshot(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, sorted(allow_patterns)[:3], revision))
        return str(packed / "pretrained" / STEM)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert load_pretrained("robust", BRIEF, hub="us", revision="abc").name == STEM
    repo_id = f"us/{STEM}"
    assert asked == [(repo_id, SUMS, "abc"), (repo_id, ["LICENSE", "README.md", SUMS], "abc")]

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", fails)
    with pytest.raises(OSError, match="cannot be fetched from the Hugging Face Hub: no network"):
        load_pretrained("robust", BRIEF, hub="us")


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"])
def test_the_installed_agents_do_what_their_cards_say(env_id: str) -> None:
    """Without an attack and under the strongest attacker that lies beside each: few episodes, so within a quarter."""
    pytest.importorskip("mujoco")
    folder = pretrained.INSTALLED / f"barpo-{env_id}"
    told = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name, model, venv = load_pretrained("barpo", env_id, n_envs=2)
    attack = LearnedAttack.load(folder / "attacks" / f"{told['returns']['worst_attack']}.zip", model)
    report = evaluate_robustness(model, venv, [attack], told["epsilon"], n_eval_episodes=2)
    assert name == f"barpo-{env_id}"
    assert report.natural == pytest.approx(told["returns"]["natural"], rel=0.25)
    assert report.worst_case == pytest.approx(told["returns"]["worst_case"], rel=0.25)


def test_the_commands(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pack", str(packed / "comparison"), "--output", str(tmp_path / "us"), "--algorithms", "robust=barpo", "PPO"])
    assert capsys.readouterr().out.split() == [str(tmp_path / "us" / f"{name}-Brief-v0") for name in ("barpo", "ppo")]
    command = ["evaluate", "--pretrained", "barpo", "ppo", "--pretrained-folder", str(tmp_path / "us"), "--env", BRIEF]
    main([*command, "--attacks", "random", "--epsilon", "0.1", "--episodes", "2", "--output", str(tmp_path / "report")])
    assert "| barpo-Brief-v0 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["evaluate"], "There is no agent to evaluate: name files, or pretrained"),
        (["evaluate", "--pretrained", "barpo"], "On which environment are the pretrained agents"),
        (
            ["evaluate", "--pretrained", "barpo", "--env", "Nowhere-v0"],
            "There is no pretrained agent 'barpo-Nowhere-v0'",
        ),
        (["pack", "nowhere"], "No such file"),
        (["pack", "nowhere", "--licence", "nowhere"], "There is no licence 'nowhere'"),
    ],
)
def test_the_command_line_says_in_one_line_what_is_wrong(
    arguments: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert match in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_attackers_that_are_packed(packed: Path, tmp_path: Path) -> None:
    for which, expected in (("strongest", 1), ("all", 1), ("none", 0)):  # one kind of attack was learned
        (place,) = pack_medians(packed / "comparison", tmp_path, ["robust"], attackers=which)
        assert len(list(place.glob("attacks/*.zip"))) == expected
        assert ("attacks/robust_sarsa.zip" in verify(place)) == bool(expected)
    with pytest.raises(ValueError, match="attackers is one of strongest, all, none, but it is 'some'"):
        pack_medians(packed / "comparison", tmp_path, attackers="some")


def test_an_algorithm_that_was_not_compared(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"The comparison has no ARPO\. It has PPO, robust"):
        pack_medians(packed / "comparison", tmp_path, ["ARPO"])


def test_the_package_holds_its_pretrained_agents() -> None:
    text = (Path(sb3_barpo.__file__).parents[1] / "setup.cfg").read_text()
    assert "pretrained/*/*" in text
    assert "pretrained/*/attacks/*" in text
