"""What an opened run says of itself."""

from ml_collections import ConfigDict

from geovq_jax.stages.run import Run


def test_classes_have_the_words_of_their_data(tmp_path):
    def names(source: str) -> tuple[str, ...]:
        return Run(tmp_path, ConfigDict({"data": {"name": source}})).class_names

    assert names("fashion_mnist")[9] == "boot"
    assert len(names("cifar10")) == 10
