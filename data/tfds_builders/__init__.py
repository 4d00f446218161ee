"""Our TFDS builders over packages; importing this registers them. No TensorFlow, no network but pip's."""

from data.tfds_builders.aws_documentation import AwsDocumentation
from data.tfds_builders.conll2003 import Conll2003
from data.tfds_builders.imdb_reviews_text import ImdbReviewsText
from data.tfds_builders.rotten_tomatoes import RottenTomatoes

__all__ = ["AwsDocumentation", "Conll2003", "ImdbReviewsText", "RottenTomatoes"]
