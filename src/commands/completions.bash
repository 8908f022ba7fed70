
# Names that are on the machine at that moment are asked for; all else is above.
_overstore_with_names() {
    _overstore "$@"
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" names="" word store=""
    [[ ${cur} == -* || ${COMP_CWORD} -lt 2 ]] && return 0
    case "${prev}" in
        @OPTIONS@) return 0 ;;
    esac
    case "${COMP_WORDS[1]}" in
        warm)
            for word in "${COMP_WORDS[@]:2:COMP_CWORD-2}"; do
                [[ ${word} == -* || -n ${store} ]] || store="${word}"
            done
            if [[ -n ${store} ]]; then
                names="$(overstore list --names --below "${store}" 2>/dev/null)"
            else
                names="$(overstore list --names 2>/dev/null)"
            fi
            ;;
        publish) names="$(overstore list --names --publications 2>/dev/null)" ;;
        @COMMANDS@) names="$(overstore list --names 2>/dev/null)" ;;
        *) return 0 ;;
    esac
    local IFS=$'\n'
    COMPREPLY=( $(compgen -W "${names}" -- "${cur}") )
    return 0
}
complete -F _overstore_with_names -o bashdefault -o default overstore
