import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from evaluation import plots

HISTORY = [{"loss": 2.0, "step": 10}, {"loss": 1.0, "step": 20}, {"eval_loss": 1.5, "step": 20}, {"train_runtime": 3}]


def test_loss_curves_hold_the_logged_points(tmp_path, figures):
    plots.plot_loss_curves({"stage 1": HISTORY, "stage 2": HISTORY[:1]}, tmp_path / "new" / "loss.png")
    assert matplotlib.image.imread(tmp_path / "new" / "loss.png").std() > 0
    first, second = figures["loss.png"].axes
    assert [line.get_xydata().tolist() for line in first.lines] == [[[10, 2], [20, 1]], [[20, 1.5]]]
    assert [len(second.lines), second.get_title()] == [1, "stage 2"]


def test_a_history_without_losses_is_named(tmp_path):
    with pytest.raises(ValueError, match="stage 3: the history has no loss"):
        plots.plot_loss_curves({"stage 3": HISTORY[3:]}, tmp_path / "loss.png")
    with pytest.raises(ValueError, match="no training history"):
        plots.plot_loss_curves({}, tmp_path / "loss.png")
    assert list(tmp_path.iterdir()) == []


def test_scores_are_drawn_as_bars(tmp_path, figures):
    table = {"BM25": {"seen": 66.0, "unseen": 52.0}, "stage 3": {"seen": 55.0, "unseen": 35.0}}
    table["partly"] = {"unseen": 12.0}
    plots.plot_scores(table, tmp_path / "scores.png", xlabel="nDCG@10")
    bars = [(each.get_label(), each[0].get_width()) for each in figures["scores.png"].axes[0].containers]
    expected = {
        column: [(name, row[column]) for name, row in table.items() if column in row] for column in ("seen", "unseen")
    }
    assert bars == expected["seen"] + expected["unseen"]
    assert [label.get_text() for label in figures["scores.png"].axes[0].get_yticklabels()] == ["seen", "unseen"]
    with pytest.raises(ValueError, match="no scores to draw"):
        plots.plot_scores({"stage 3": {}}, tmp_path / "none.png", xlabel="nDCG@10")


def test_the_embedding_map_keeps_clusters_apart_and_rare_labels_grey(tmp_path, figures, monkeypatch):
    monkeypatch.setattr(plots, "_MAX_MAP_LABELS", 3)
    generator = np.random.default_rng(0)
    labels = np.array(["torch"] * 40 + ["scipy"] * 35 + ["sympy"] * 30 + ["rare"] * 4)
    centres = {label: 20 * generator.normal(size=24) for label in set(labels.tolist())}
    embeddings = np.stack([centres[label] + generator.normal(size=24) for label in labels])
    plots.plot_embedding_map(embeddings, labels.tolist(), tmp_path / "map.png", "Packages")
    assert (tmp_path / "map.png").stat().st_size > 1000
    panel = figures["map.png"].axes[0]
    groups = {group.get_label(): group.get_offsets().data for group in panel.collections}
    assert sorted(groups) == ["other (4)", "scipy (35)", "sympy (30)", "torch (40)"]
    colours = {group.get_label(): tuple(group.get_facecolor()[0][:3]) for group in panel.collections}
    assert colours["other (4)"] == to_rgb("lightgrey")
    assert len(set(colours.values())) == 4
    spread = max(np.linalg.norm(points - points.mean(0), axis=1).mean() for points in groups.values())
    middles = [points.mean(0) for points in groups.values()]
    nearest = min(np.linalg.norm(one - two) for place, one in enumerate(middles) for two in middles[:place])
    assert nearest > 1.5 * spread


def test_the_map_needs_a_label_for_every_embedding(tmp_path):
    with pytest.raises(ValueError, match="not 5 and 4"):
        plots.plot_embedding_map(np.eye(5), list("abcd"), tmp_path / "map.png", "t")
