"""XMem: masks tracked with sensory, working and long-term memory."""

NAMES = ("xmem",)
