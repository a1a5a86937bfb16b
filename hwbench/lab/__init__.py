"""The lab: many devices on many hosts, and one queue.

`pool` hands out work (`records`: what it holds) and knows nothing but tasks (`tasks`) and the names
and kinds of devices (`kinds`). `bench` carries out tasks on an opened device, `serving` is the life
of a device. `tables` builds one table with several devices of a kind, `reconcile` brings them to
one scale. None of them knows how they reach each other: `actors` puts pool and devices into Ray,
`nodes` and `hosts` start its processes, `client` connects to a lab, `meter` measures with its
devices, `work` is what a user asks for, and `views` shows its state.
"""
