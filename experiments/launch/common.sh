# Shared parts of the launchers: flags, errors in one line, --dry-run. To be sourced.
# shellcheck shell=bash

config=experiments/board_3b.py
workdir=
dry_run=
max_quick_failures=3
train_flags=()
pause=${LAUNCH_PAUSE:-30} # seconds between two looks or tries

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints words quoted for a shell, here or on another machine.
quote() {
    local _word _line=
    for _word in "$@"; do
        [[ $_word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || _word="'${_word//\'/\'\\\'\'}'"
        _line+="$_word "
    done
    echo "${_line% }"
}

# Runs a command, or with --dry-run prints it.
run() {
    if [[ -n $dry_run ]]; then
        quote "$@"
    else
        "$@"
    fi
}

# read_flags "the launcher's own flags" "$@": sets a variable per flag, `--node-pool x`
# being node_pool=x. Arguments after `--` are passed to `python -m swm_jax.train`.
read_flags() {
    local _known _name _value
    read -ra _known <<< "config workdir max-quick-failures $1"
    shift
    while (($#)); do
        case $1 in
        --)
            shift
            train_flags=("$@")
            return
            ;;
        --dry-run)
            dry_run=1
            shift
            continue
            ;;
        --help)
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        --*) _name=${1%%=*} ;;
        *) fail "unexpected argument '$1'; flags start with --, training's follow --" ;;
        esac
        _name=${_name#--}
        [[ " ${_known[*]} " == *" $_name "* ]] ||
            fail "unknown flag --$_name; known: --dry-run$(printf ' --%s' "${_known[@]}")"
        if [[ $1 == *=* ]]; then
            _value=${1#*=}
            shift
        else
            (($# > 1)) || fail "$1 needs a value"
            _value=$2
            shift 2
        fi
        printf -v "${_name//-/_}" '%s' "$_value"
    done
}

# Fails unless all variables named were set by flags.
need() {
    local name
    for name in "$@"; do
        [[ -n ${!name-} ]] || fail "--${name//_/-} is missing; --help tells the flags"
    done
}

need_config() {
    [[ $max_quick_failures =~ ^[1-9][0-9]*$ ]] ||
        fail "--max-quick-failures $max_quick_failures: expected a whole number"
    [[ -f ${config%%:*} ]] || fail "--config $config: no such file (run from the root)"
}

need_bucket() {
    [[ $workdir == gs://* ]] ||
        fail "--workdir $workdir: expected gs://bucket/folder, which every host reaches"
}

need_command() {
    [[ -n $dry_run ]] || command -v "$1" > /dev/null || fail "$1 is not installed: $2"
}

# split_topology v5e:4x4: sets kind, shape and chips.
split_topology() {
    local digits='[1-9][0-9]*' sides
    [[ $1 =~ ^(v4|v5p):($digits(x$digits){2})$ || $1 =~ ^(v5e|v6e):($digits(x$digits))$ ]] ||
        fail "--topology $1: expected a shape of v5e, v6e (4x4) or v4, v5p (2x2x4), as in v5e:4x4"
    # Read by the launchers.
    # shellcheck disable=SC2034
    kind=${BASH_REMATCH[1]} shape=${BASH_REMATCH[2]}
    # shellcheck disable=SC2034
    chips=$((${shape//x/*}))
    case $kind in
    v5e | v6e)
        [[ " 1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16 " == *" $shape "* ]] ||
            fail "--topology $1: $kind comes as 1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
        ;;
    *)
        sides='(1|2|4|8|12|16|20|24|28)'
        [[ $shape =~ ^$sides(x$sides){2}$ && $((chips % 4)) == 0 ]] ||
            fail "--topology $1: $kind comes in sides of 1, 2 or a multiple of 4, at least 2x2x1"
        ;;
    esac
}

# The train command for a remote shell.
train_command() {
    quote python -m swm_jax.train --config "$config" --workdir "$workdir" \
        "${train_flags[@]}"
}

# keep_trying command..: runs it until it succeeds. Training resumes by itself; what
# fails three times within five minutes of its start will not get better.
keep_trying() {
    local started quick=0
    if [[ -n $dry_run ]]; then
        run "$@"
        return
    fi
    until started=$SECONDS && "$@"; do
        if ((SECONDS - started > 300)); then quick=0; else quick=$((quick + 1)); fi
        ((quick < max_quick_failures)) ||
            fail "ended $quick times within five minutes of its start: see its output"
        echo "ended early, going on from the last checkpoint" >&2
        sleep "$pause"
    done
}
