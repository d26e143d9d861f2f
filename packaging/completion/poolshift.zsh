#compdef poolshift
# zsh completion for poolshift(8). What there is to complete it asks poolshift itself.

local -a found
local line option

if ((CURRENT == 2)); then
  for line in ${(f)"$(poolshift --help 2>/dev/null)"}; do
    [[ $line =~ '^  ([a-z]+)  +(.*)$' ]] && found+=("${match[1]}:${match[2]}")
  done
  _describe 'command' found
  return
fi

case ${words[CURRENT-1]} in
  --state-dir | --overlay-dir) _files -/ && return ;;
  --config | --ceph-conf | --guardian | --log-file | --metrics-file | --nova-conf) _files && return ;;
  --domain) found=(${(f)"$(virsh --readonly list --name 2>/dev/null)"}) ;;
  --engine) found=(auto mirror handover) ;;
  --hydrate) found=(auto offload flatten) ;;
  --progress) found=(auto bar json none) ;;
  --source) found=(keep trash) ;;
  *)
    if [[ ${words[CURRENT]} == -* ]]; then
      found=(${(uf)"$(poolshift ${words[2]} --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]+')"})
    elif [[ ${words[2]} == (status|cancel|set|recover) ]]; then
      found=(${(f)"$(poolshift status --json 2>/dev/null | grep -oE '"job":"[0-9a-f]{12}"' | cut -d '"' -f 4)"})
    fi
    ;;
esac
compadd -a found
