"""What do the FFNs do? Pure functions on arrays, and one recorder of activations to feed them.

Read ``layer_steps`` and ``recorder`` first: what a layer does, and how its activations are caught.
Then, each with its measures: ``similarity`` (``cka``, ``neighbourhoods``), ``geometry``
(``isotropy``, ``branch_norms``) and ``map_study`` (``players``, ``layer_maps``, ``map_measures``).
Nothing here imports fairseq.
"""
