"""What it means to lead and to follow.

Each partition lives on several brokers. One replica leads: clients write to it, and the others
follow by fetching from it as a consumer would. A follower's fetch offset is its acknowledgement;
what the whole in-sync set (ISR) has fetched is below the high watermark, and is never lost while
one of that set lives.

`partition.py` is the machine of one replica: its role, epochs, offsets, in-sync set and high
watermark, with `progress.py`, what a leader knows of each follower, and `truncation.py`, where two
logs part. They decide; nothing in them touches a disk or a socket.

`replica.py` joins one machine to its log. `replicas.py` holds all that this broker hosts and is
what the rest of the broker calls: append, read, look up. `control.py` obeys the controller, as far
as `roles.py` finds it to be news. `fetcher.py` is one task per leader followed, speaking in the
sessions of `session.py`; `proposals.py` takes changes of the in-sync set to the controller
(KIP-497); `upkeep.py` flushes, retains and checkpoints, and has `cleaning.py` compact what is to be
compacted; `moving.py` takes replicas from one log directory to another. `validation.py` is what a
client's batch must satisfy, `opening.py` what happens to one whose records must be looked at. Those
who must wait sleep in `purgatory.py`, those who move many bytes in `throttle.py`.

Roles are assigned by the controller (LeaderAndIsr, StopReplica) and by nobody else. Every role has
a leader epoch, and whoever speaks with an older one is refused (KIP-101, KIP-279, KIP-320).

What a lone batch with acks=all and two followers costs, for whoever wants it faster. Task steps are
the dear part: some 8 us each before they do anything; then Python calls, some 0.3 us each.

    leader     step 1         epoll_wait, recv into the connection's buffer, CRC over it, stamp in
                              place, pwritev from there; wake both followers' fetches
               steps 2, 3     for each: up to 64 KiB preadv and sendmsg with the header before it;
                              above, the header with MSG_MORE, a probe per 64 KiB, sendfile
               steps 4, 5     each follower's next fetch: epoll_wait, recv; the second one raises
                              the high watermark; wake the produce
               step 6         send the answer
    follower   step 1         epoll_wait, recv into a buffer of this answer, CRC, pwritev from
                              there, send the next fetch

Copies of a byte: socket to memory and memory to page cache, once at each broker; page cache to
memory once per follower where the slice is small, and not at all where it is large. Under load a
follower's fetch brings what several produces appended, so that steps 2 to 5 are shared by them.
"""
