"""Tests of dlba.config.checks. In the texts, § stands before each place of an expected problem."""

from twisted.trial.unittest import SynchronousTestCase

from dlba.config.checks import check
from dlba.config.nodes import locate
from dlba.config.shapes import Reading, read_mapping
from dlba.config.values import NodeConfig
from tests.config.samples import node_of

OWN = "192.0.2.200"  # stands for an address of this machine
ONE = "{app: {backends: {a: {address: '192.0.2.1:80'}}}}"
TWO = ONE[:-1] + ", api: {backends: {b: {address: '192.0.2.2:80'}}}}"


def web(
    listen="[{port: 80}]",
    sites="[{hosts: ['*'], pool: app}]",
    pools=ONE,
    limits="{}",
    vip=None,
    monitor="127.0.0.1:9",
):
    return f"""\
node: a
monitor: {{listen: {monitor}}}
array:
  {f"vip: {vip}" if vip else ""}
  web:
    listen: {listen}
    sites: {sites}
    pools: {pools}
    limits: {limits}
"""


def marked(text):
    """The text without its marks, and the line and column of each."""
    places = []
    for number, line in enumerate(text.splitlines(), 1):
        for index, part in enumerate(line.split("§")[:-1]):
            before = sum(map(len, line.split("§")[:index])) + len(part)
            places.append(f"{number}:{before + 1}")
    return text.replace("§", ""), places


class Case(SynchronousTestCase):
    def found(self, text):
        """The problems of the keys by themselves, and those between them."""
        root = node_of(text)
        reading = Reading()
        config = read_mapping(NodeConfig, root, reading)
        between = check(config, root, locate(root, "array"), lambda host: host == OWN)
        return reading.problems, sorted(between)

    def finds(self, text, *expected):
        """Each expected "key: message" at its mark, nothing else."""
        text, places = marked(text)
        single, between = self.found(text)
        self.assertEqual(single, [])
        expected = [f"node.yaml:{p}: {e}" for p, e in zip(places, expected, strict=True)]
        self.assertEqual([str(problem) for problem in between], expected, text)


class SiteTests(Case):
    def test_nothing_wrong(self):
        self.finds(web())
        self.finds("node: a\narray: {}\n")

    def test_pool_exists(self):
        self.finds(
            web(sites="[{hosts: [a], pool: §ap}, {hosts: [b], pool: §zzz}]"),
            'array.web.sites[0].pool: expected one of app, got "ap" (did you mean "app"?)',
            'array.web.sites[1].pool: expected one of app, got "zzz"',
        )

    def test_one_default(self):
        default = "hosts: [a], pool: app, default: "
        self.finds(
            web(sites=f"[{{{default}true}}, {{{default}false}}, {{{default}§true}}]"),
            "array.web.sites[2].default: expected one default site, got another after web.sites[0]",
        )

    def test_target_within_head(self):
        message = "expected at most limits.head (4096 bytes), got "
        self.finds(
            web(limits="{head: 4KiB, target: §8KiB}"),
            f"array.web.limits.target: {message}8192",
        )
        self.finds(web(limits="§{head: 4KiB}"), f"array.web.limits: {message}16384")


class ListenerTests(Case):
    def test_listeners_that_meet(self):
        for one, other in (
            ("port: 80", "port: §80"),
            ("port: 80", "port: 81"),
            ("port: 80", "port: §80, address: 10.0.0.1"),
            ("port: 80, address: 10.0.0.2", "port: 80, address: 10.0.0.1"),
            ("port: 80, address: 10.0.0.1", "port: §80, address: 10.0.0.1"),
            ("port: 80, address: 0.0.0.0", "port: §80, address: 10.0.0.1"),
            ("port: 80, address: 10.0.0.1", "port: §80, address: 0.0.0.0"),
            ("port: 80, address: 0.0.0.0", "port: 80, address: '::'"),
            ("port: 80, address: '::'", "port: 80, address: 10.0.0.1"),
            ("port: 80, address: '::'", "port: §80, address: '2001:db8::1'"),
            ("port: 80", "port: §80, address: '::'"),
            ("port: 0", "port: 0"),
        ):
            expected = (
                "array.web.listen[1].port: expected an address and port of its own, "
                "got those of web.listen[0]"
            )
            text = web(listen=f"[{{{one}}}, {{{other}}}]")
            self.finds(text, *([expected] if "§" in text else []))

    def test_vip_is_the_address_of_listeners(self):
        self.finds(web("[{port: 80}, {port: 80, address: 10.0.0.1}]", vip="10.0.0.2"))
        self.finds(
            web("[{port: 80}, {port: §80, address: 10.0.0.1}]", vip="10.0.0.1"),
            "array.web.listen[1].port: expected an address and port of its own, "
            "got those of web.listen[0]",
        )

    def test_monitor_meets_a_listener(self):
        self.finds(
            web(monitor="§'127.0.0.1:80'"),
            "monitor.listen: expected an address and port of its own, got those of web.listen[0]",
        )
        self.finds(web(monitor="127.0.0.1:80", vip="10.0.0.1"))
        self.finds(web(monitor="127.0.0.1:81"))
        self.finds(web("[{port: 0}]", monitor="127.0.0.1:0"))

    def test_backend_is_our_listener(self):
        for listener, backend, ours in (
            ("port: 80", "127.0.0.1:80", True),
            ("port: 80", "[::1]:80", True),
            ("port: 80", f"{OWN}:80", True),
            ("port: 80", f"{OWN}:81", False),
            ("port: 80", "192.0.2.1:80", False),
            ("port: 80, address: 0.0.0.0", f"{OWN}:80", True),
            ("port: 80, address: '::'", f"{OWN}:80", False),
            ("port: 80, address: 10.0.0.1", "10.0.0.1:80", True),
            ("port: 80, address: 10.0.0.1", "127.0.0.1:80", False),
            ("port: 80, address: 10.0.0.1", f"{OWN}:80", False),
        ):
            mark = "§" if ours else ""
            pools = f"{{app: {{backends: {{a: {{address: {mark}'{backend}'}}}}}}}}"
            expected = (
                "array.web.pools.app.backends.a.address: "
                "expected a backend, got our own listener web.listen[0]"
            )
            self.finds(web(f"[{{{listener}}}]", pools=pools), *([expected] if ours else []))

    def test_backend_at_the_vip_is_our_listener(self):
        self.finds(
            web(pools="{app: {backends: {a: {address: §'10.0.0.1:80'}}}}", vip="10.0.0.1"),
            "array.web.pools.app.backends.a.address: "
            "expected a backend, got our own listener web.listen[0]",
        )


class PartlyWrongTests(Case):
    def test_the_rest_is_checked(self):
        sites = "[{hosts: [a, 'a:80'], pool: §ap}, 7, {hosts: 3, pool: [], persistence: x}]"
        text, places = marked(web("[{port: x}, {port: 80}, {port: §80}]", sites))
        single, between = self.found(text)
        self.assertEqual(len(single), 6)
        self.assertEqual([f"{problem.line}:{problem.column}" for problem in between], places)
        self.assertEqual(
            [problem.key for problem in between],
            ["array.web.listen[2].port", "array.web.sites[0].pool"],
        )

    def test_any_line_may_be_missing_or_of_a_wrong_type(self):
        lines = web().splitlines(keepends=True)
        for index in (1, *range(5, len(lines))):
            for value in (None, "", " 3", " []", " {}"):
                name = lines[index].split(":")[0]
                changed = "" if value is None else f"{name}:{value}\n"
                text = "".join([*lines[:index], changed, *lines[index + 1 :]])
                self.assertEqual(self.found(text)[1], [], text)
