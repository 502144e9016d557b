"""What the log says of a tier that fails and comes back."""

from __future__ import annotations

from tokenworks.contract.kv import Tier
from tokenworks.kv.tier_news import TierNews

FULL = "KV blocks in /kv: {} bytes are free and 1,024 are kept so: free space there"


def test_a_tier_that_stays_away_is_told_of_once_and_when_it_is_back() -> None:
    news = TierNews()
    assert news.heard(Tier.REMOTE, "it is silent", is_up=False, now_s=10.0) == "it is silent"
    for second in range(11, 40, 4):
        assert news.heard(Tier.REMOTE, "it is silent", is_up=False, now_s=second) == ""
    assert news.heard(Tier.REMOTE, "", is_up=True, now_s=70.0) == "the remote tier works again, after 60 s"
    assert news.heard(Tier.REMOTE, "", is_up=True, now_s=71.0) == ""
    assert news.heard(Tier.REMOTE, "it is silent", is_up=False, now_s=80.0) == "it is silent"


def test_other_numbers_are_no_news_and_another_reason_is() -> None:
    news = TierNews()
    assert news.heard(Tier.DISK, FULL.format("61,440"), is_up=False, now_s=0.0)
    assert news.heard(Tier.DISK, FULL.format("57,344"), is_up=False, now_s=1.0) == ""
    assert news.heard(Tier.DISK, "it is read-only", is_up=False, now_s=2.0) == "it is read-only"


def test_another_block_is_no_news() -> None:
    news = TierNews()
    text = "make the bucket. Error performing PUT http://s3:9000/kv/{} in {}ms"
    assert news.heard(Tier.REMOTE, text.format("2a3380f703962859b16da888ac61ec87", 23.1), is_up=False, now_s=0.0)
    assert not news.heard(Tier.REMOTE, text.format("a1115a2cc8b98e5c1ee5e4aef917f425", 7.02), is_up=False, now_s=1.0)


def test_a_tier_that_reads_and_does_not_write_is_not_back() -> None:
    news = TierNews()
    news.heard(Tier.DISK, "it is read-only", is_up=False, now_s=0.0)
    assert news.heard(Tier.DISK, "", is_up=False, now_s=1.0) == ""
    assert news.heard(Tier.REMOTE, "", is_up=True, now_s=1.0) == ""
    assert news.heard(Tier.DISK, "", is_up=True, now_s=2.0) == "the disk tier works again, after 2 s"
