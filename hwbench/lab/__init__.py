"""The lab: many devices on many hosts, and one queue.

`pool` says who does what (`records`: what it keeps) and knows nothing but tasks (`tasks`) and
devices' names and kinds (`kinds`). `bench` carries out tasks on an opened device, `serving` is a
device's life. `tables` builds one table with several devices of a kind, `reconcile` brings them to
one scale. None of them knows how they reach each other: `actors` puts pool and devices in Ray,
`nodes` and `hosts` start its processes, `client` is the way in, `work` is what a user asks for,
`views` is what one sees of it.
"""
