"""The nemesis: breaks a whole running Podium at random, heals it, and checks the history of what clients saw.

    plan      which faults happen when and to whom: a pure function of the seed
    cluster   two gateways, two schedulers, three workers, Postgres, Redis, and a proxy on every edge between them
    injure    how each kind of fault is done to the cluster, and undone
    clients   the load: random submits, cancels and readers through the SDK
    consumers the load of ConsumeResults: an app of its own, two consumers of one group
    history   what the clients saw
    verdict   what the history and the ledger must satisfy (invariants.sql)
    consumption  what the consumers got, and what that must satisfy
    audit     waiting for quiet after the faults, and the last look at every process
    runner    one seed from start to verdict;  campaign: many seeds and one table

`python -m tests.faults.nemesis --seed N` replays a seed: the plan is the same every time, the machine's timing is not.
"""
