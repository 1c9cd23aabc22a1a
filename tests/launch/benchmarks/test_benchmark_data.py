import numpy as np

from launch.benchmarks import data as benchmark_data


def test_our_tiles_have_the_usual_pixels(monkeypatch):
    first = dict([next(iter(benchmark_data.pictures().items()))])
    monkeypatch.setattr(benchmark_data, "pictures", lambda: first)
    found = benchmark_data.measure(1)
    (row,) = found["pictures"]
    assert row["tiles"] == 7 and row["equal"]
    text = benchmark_data.report(found)
    assert 0 < row["off"]["most"] <= 25 and row["off"]["within 3"] > 0.9
    assert "ours has the usual pixels: True" in text and "opencv is off by levels: most" in text
    assert "cores of this machine" in text


def test_the_usual_transform_is_channels_first_and_normalised():
    made = benchmark_data.usual(benchmark_data._jpeg(benchmark_data.Image.new("RGB", (900, 448), (255, 0, 0))))
    assert made.shape == (3, 3, 448, 448) and made.dtype == np.float32
    np.testing.assert_allclose(made[0, :, 5, 5], [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], atol=0.03)
