"""What a layer computes. Read in this order: plan, feed_forward, attention, encoder, decoder."""

from fairseq_ffn.modules.decoder_layer import build_decoder_layer
from fairseq_ffn.modules.encoder_layer import build_encoder_layer
from fairseq_ffn.modules.layer_plan import LayerPlan, ModulePool

__all__ = ["LayerPlan", "ModulePool", "build_decoder_layer", "build_encoder_layer"]
