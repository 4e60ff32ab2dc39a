"""Figures of the report: the curves are the recorded statistics."""

from fake_runs import lines, make_gan, make_model, make_runs, save_picture

from layered_plugin.report import charts, figures, reading
from layered_plugin.report import facts as report_facts


def test_curves_are_the_statistics(tmp_path, monkeypatch):
    runs, drawn = make_runs(tmp_path), {}

    def note(title, xlabel, lines, level=None):
        drawn[title] = (xlabel, lines, level)
        return charts.Chart("data:,", "data:,", title)

    monkeypatch.setattr(figures, "line_chart", note)
    figures.gan_charts(reading.read_gan_run(runs / "00000-shapes"))
    kimgs = [float(kimg) for kimg in range(8)]
    assert drawn["Loss"] == ("kimg", {"generator": (kimgs, [0.7 + kimg for kimg in kimgs]),
                                      "discriminator": (kimgs, [1.3] * 8)}, None)
    assert drawn["Mask coverage"][1]["coverage"] == (kimgs, [0.25 + kimg / 100 for kimg in kimgs])
    assert drawn["Mask coverage"][2] == ("costs nothing above", 0.2)
    assert drawn["Pictures per second"][1] == {"throughput": (kimgs, [250.0] * 8)}
    assert "Augmentation" not in drawn and "Discriminator scores" not in drawn
    drawn.clear()
    figures.model_charts(reading.read_model_run(runs / "00001-distill"))
    assert drawn["Loss, generated pictures"] == ("step", {"loss": ([10, 20], [0.1, 0.05])}, None)
    assert drawn["Loss, real pictures"] == ("step", {"loss": ([10, 20], [0.2, 0.2])}, None)
    assert drawn["Share of real pictures kept"][1] == {"real pictures": ([10, 20], [0.9, 0.9])}


def test_chunks_show_a_line_each_and_their_time_together(tmp_path):
    gan = make_gan(tmp_path / "00000-shapes")
    model = make_model(tmp_path / "00001-chunks", gan, "chunks")
    (model / "stats.jsonl").unlink()
    for idx in range(4):
        folder = model / f"chunk-{idx:05d}"
        save_picture(folder / "samples000020.png", 71 + idx)
        rows = [dict(stage="encoder", step=step, seconds=step * 1.5, loss=1.0 / step) for step in (10, 20)]
        (folder / "stats.jsonl").write_text(lines(rows))
    found = reading.read_model_run(model)
    (chart,) = figures.model_charts(found)
    assert chart.alt.count("ends at 0.05") == 4
    assert [picture.width for picture in figures.sample_pictures(found)] == [71]
    facts = dict(report_facts.model_facts(found))
    assert facts["steps"] == "20 for each of 4 chunks" and facts["time"] == "2m 00s"
