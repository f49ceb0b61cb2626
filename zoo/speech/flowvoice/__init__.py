"""FlowVoice: sound as continuous tokens, which a flow draws one after the other."""

NAMES = ("flowvoice-*",)
