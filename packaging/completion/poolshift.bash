# bash completion for poolshift(8). What there is to complete it asks poolshift itself.
# shellcheck shell=bash disable=SC2207

_poolshift() {
  local current=$2 previous=$3 command=${COMP_WORDS[1]} words=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    words="$(poolshift --help 2>/dev/null | sed -n 's/^  \([a-z]\{1,\}\)  .*/\1/p') --help --version"
  else
    case $previous in
      --state-dir | --overlay-dir)
        COMPREPLY=($(compgen -d -- "$current"))
        return
        ;;
      --config | --ceph-conf | --guardian | --log-file | --metrics-file | --nova-conf)
        COMPREPLY=($(compgen -f -- "$current"))
        return
        ;;
      --domain) words=$(virsh --readonly list --name 2>/dev/null) ;;
      --engine) words='auto mirror handover' ;;
      --hydrate) words='auto offload flatten' ;;
      --progress) words='auto bar json none' ;;
      --source) words='keep trash' ;;
      *)
        if [[ $current == -* ]]; then
          words=$(poolshift "$command" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]+' | sort -u)
        elif [[ $command =~ ^(status|cancel|set|recover)$ ]]; then
          words=$(poolshift status --json 2>/dev/null | grep -oE '"job":"[0-9a-f]{12}"' | cut -d '"' -f 4)
        fi
        ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _poolshift poolshift
