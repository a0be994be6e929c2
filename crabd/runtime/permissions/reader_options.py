"""The options with which commands only read: what is not in these tables may write. Pure.

Left out on purpose are such as ``sort -o``, ``find -delete``, ``rg --pre``, ``git diff --output``, and what
makes a search follow links.
"""

from __future__ import annotations

from msgspec import Struct


class Options(Struct, frozen=True):
    """Options that change nothing: letters without and with a value, long ones likewise.

    ``operands``: all are ``paths``; the first is a ``pattern``; they are ``free`` text; there is at most
    ``one`` path, or ``none``. With ``any`` there are no options either, only text.
    """

    operands: str = "paths"
    letters: str = ""
    valued: str = ""
    long: str = ""
    long_valued: str = ""
    is_deep: bool = False


_GREP = Options(
    "pattern",
    "EFGPivwxycLlqsboHhnTZzraIU0123456789",
    "eABCmdD",
    "extended-regexp fixed-strings perl-regexp ignore-case invert-match word-regexp line-regexp count "
    "files-with-matches files-without-match quiet no-messages byte-offset "
    "with-filename no-filename line-number "
    "only-matching recursive text null color colour",
    "regexp after-context before-context context max-count include exclude "
    "exclude-dir color colour binary-files",
    is_deep=True,
)
_SUM = Options("paths", "btz", "", "binary text zero tag")
READERS = {
    "ls": Options(
        "paths",
        "aAbBcCdfFgGhHiklLmnNopqQrRsStuUvxXZ1",
        "wIT",
        "all almost-all human-readable "
        "directory recursive reverse size inode full-time group-directories-first color",
        "color sort time ignore hide time-style",
    ),
    "cat": Options(
        "paths", "AbeEnstTuv", "", "number number-nonblank show-all show-ends show-tabs squeeze-blank"
    ),
    "tac": Options(),
    "rev": Options(),
    "head": Options("paths", "qvz0123456789", "nc", "quiet verbose", "lines bytes"),
    "tail": Options("paths", "qvzfFr0123456789", "nc", "quiet verbose follow", "lines bytes"),
    "nl": Options("paths", "p", "bdfhilnsvw"),
    "wc": Options("paths", "clmLw", "", "bytes chars lines words max-line-length"),
    "cut": Options(
        "paths",
        "nsz",
        "bcdf",
        "only-delimited complement",
        "bytes characters delimiter fields output-delimiter",
    ),
    "tr": Options("free", "cCdst", "", "complement delete squeeze-repeats"),
    "paste": Options("paths", "sz", "d", "serial", "delimiters"),
    "column": Options("paths", "txn", "cso", "table"),
    "fold": Options("paths", "bs", "w", "bytes spaces", "width"),
    "expand": Options("paths", "i", "t"),
    "sort": Options(
        "paths",
        "bcCdfghiMmnrRsuVz",
        "kt",
        "reverse numeric-sort unique version-sort human-numeric-sort ignore-case stable check",
        "key field-separator",
    ),
    "uniq": Options("one", "cdDiuz", "fsw", "count repeated unique ignore-case"),
    "comm": Options("paths", "123z"),
    "join": Options("paths", "iz", "12aeotv"),
    "diff": Options(
        "paths",
        "abBdeEinNpqstTuwyZ0123456789",
        "CIUWx",
        "brief unified ignore-all-space "
        "ignore-space-change new-file color side-by-side report-identical-files text",
        "unified exclude color label",
        is_deep=True,
    ),
    "cmp": Options("paths", "bls", "in", "print-bytes verbose quiet silent"),
    "file": Options("paths", "bhiILnNrs", "", "brief mime mime-type mime-encoding dereference"),
    "stat": Options("paths", "Lft", "c", "dereference file-system terse", "format printf"),
    "du": Options(
        "paths",
        "abcdhHklLmsSx0",
        "d",
        "all summarize human-readable total apparent-size",
        "max-depth exclude",
    ),
    "df": Options("paths", "aBhHiklPT", "t", "human-readable all inodes"),
    "tree": Options("paths", "adfhilnpsugDFCrtUA", "LIP", "dirsfirst noreport", "gitignore"),
    "realpath": Options("paths", "eLmPsqz"),
    "readlink": Options("paths", "efmnqsvz"),
    "basename": Options("free", "az", "s"),
    "dirname": Options("free", "z"),
    "md5sum": _SUM,
    "sha1sum": _SUM,
    "sha256sum": _SUM,
    "sha512sum": _SUM,
    "b2sum": _SUM,
    "cksum": Options(),
    "od": Options("paths", "abcdfhiloxsv", "AjNtw"),
    "hexdump": Options("paths", "bcCdovx", "ns"),
    "xxd": Options("one", "bEeipu", "clgso"),
    "strings": Options("paths", "af", "nt"),
    "grep": _GREP,
    "egrep": _GREP,
    "fgrep": _GREP,
    "rg": Options(
        "pattern",
        "aFilLnNoPpSsUuvwxchH0",
        "eABCgmtTjMEr",
        "files hidden no-ignore fixed-strings "
        "ignore-case smart-case case-sensitive word-regexp line-regexp line-number no-line-number count "
        "count-matches files-with-matches files-without-match invert-match multiline "
        "only-matching pcre2 json "
        "heading no-heading vimgrep stats trim no-messages type-list no-config column "
        "no-filename with-filename",
        "regexp glob iglob type type-not max-count max-depth after-context "
        "before-context context color colors "
        "sort sortr max-filesize max-columns replace threads",
        is_deep=True,
    ),
    "jq": Options(
        "pattern",
        "nreacsSMCj",
        "",
        "raw-output compact-output slurp raw-input sort-keys null-input "
        "exit-status tab color-output monochrome-output",
    ),
    "echo": Options("any"),
    "test": Options("any"),
    "seq": Options("free", "w", "fs"),
    "sleep": Options("free"),
    "true": Options("any"),
    "false": Options("any"),
    ":": Options("any"),
    "pwd": Options("none", "LP"),
    "cd": Options("one", "LPe"),
    "date": Options("free", "uRI", "d", "utc universal rfc-email iso-8601", "date iso-8601 rfc-3339"),
    "uname": Options("none", "asnrvmpio", "", "all"),
    "whoami": Options("none"),
    "id": Options("free", "ugnGrz"),
    "groups": Options("none"),
    "hostname": Options("none", "fisdI"),
    "nproc": Options("none", "", "", "all"),
    "uptime": Options("none", "ps"),
    "free": Options("none", "bkmghtw"),
    "tty": Options("none", "s"),
    "which": Options("free", "a"),
    "type": Options("free", "aptPf"),
    "command": Options("free", "vV"),
    "ps": Options("free", "aAdefjlTwxuFHLNr", "opUuC", "no-headers", "sort"),
    "lsof": Options("none", "nPi"),
    "sed": Options("pattern", "nErsuz", "", "quiet silent regexp-extended"),
    "printf": Options("free"),
    "read": Options("free", "r"),
    "find": Options("find"),
    "git": Options("git"),
}

_LOG = Options(
    "paths",
    "pnwbcMCsuzgiEFPq0123456789",
    "nSGUL",
    "oneline graph all stat numstat shortstat dirstat summary name-only name-status "
    "patch no-patch decorate no-decorate "
    "merges no-merges first-parent follow reverse cached staged no-color color word-diff ignore-all-space "
    "ignore-space-change ignore-blank-lines check full-index binary raw "
    "abbrev-commit no-renames find-renames exit-code quiet branches "
    "tags remotes relative-date date-order topo-order left-right cherry-pick minimal patience histogram "
    "no-ext-diff no-textconv merge-base walk-reflogs pickaxe-regex ignore-case text function-context",
    "max-count since until after before author committer grep format pretty decorate color word-diff "
    "diff-filter unified abbrev date stat find-renames diff-algorithm skip branches tags inter-hunk-context "
    "find-copies glob exclude",
)
GIT = {
    "status": Options(
        "paths",
        "svbuz",
        "",
        "short long branch porcelain verbose show-stash ignored untracked-files ahead-behind",
        "porcelain untracked-files ignored",
    ),
    "diff": _LOG,
    "log": _LOG,
    "show": _LOG,
    "reflog": _LOG,
    "shortlog": Options("paths", "nsec", "", "numbered summary email all"),
    "blame": Options("paths", "lstefnwCMbp", "L", "porcelain", "since"),
    "rev-parse": Options(
        "paths",
        "q",
        "",
        "abbrev-ref short verify show-toplevel show-prefix is-inside-work-tree "
        "git-dir absolute-git-dir all symbolic-full-name quiet show-cdup",
        "short abbrev-ref",
    ),
    "rev-list": Options(
        "paths", "n", "", "count all left-right no-merges first-parent", "max-count since until"
    ),
    "ls-files": Options(
        "paths",
        "cdmoikstuvz",
        "x",
        "cached deleted modified others ignored stage unmerged exclude-standard full-name error-unmatch",
    ),
    "ls-tree": Options("paths", "drtlz", "", "name-only full-name full-tree long"),
    "cat-file": Options("paths", "tsep"),
    "describe": Options("paths", "", "", "tags all always long dirty", "match abbrev dirty"),
    "merge-base": Options("paths", "a", "", "all is-ancestor fork-point"),
    "branch": Options("none", "arvl", "", "all remotes list show-current verbose", "sort format"),
    "tag": Options("none", "ln", "", "list", "sort format"),
    "remote": Options("none", "v", "", "verbose"),
    "grep": Options(
        "pattern",
        "inIlLcwEFGPvohHp",
        "eABC",
        "ignore-case line-number count files-with-matches cached "
        "word-regexp extended-regexp fixed-strings perl-regexp name-only untracked",
        "max-depth context",
    ),
    "count-objects": Options("none", "vH"),
    "version": Options("none"),
}
