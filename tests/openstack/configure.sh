# The configuration of a test cloud and the programs that become its services. To be sourced by `up`, which has $dir,
# $password and $driver, and later the stack's environment.
# shellcheck shell=bash disable=SC2154 # what `up` has
# shellcheck disable=SC2094 # a file may say its own name

# shellcheck source=tests/openstack/functions.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/functions.sh"

# Fixed, so that the cloud does not change with the name of the machine.
kHost=cloud

choose_ports() {
  local name port used=' '
  : >"$dir/ports"
  for name in mariadb rabbitmq rabbitmq-dist epmd keystone placement glance neutron cinder-api nova-api; do
    port=$(free_port)
    while [[ $used == *" $port "* ]]; do port=$(free_port); done
    used+="$port "
    echo "$name $port" >>"$dir/ports"
  done
}

# --- sections that several files have --------------------------------------------------------------------------------

# Who the services are to each other: one user for all, with the roles admin and service.
as_service() {
  printf '%s\n' auth_type=password "auth_url=$(url keystone)/v3" username=service "password=$password" \
    project_name=service user_domain_id=default project_domain_id=default
}

keystone_authtoken() {
  section keystone_authtoken "www_authenticate_uri=$(url keystone)/v3" "$(as_service)" \
    service_token_roles=service service_token_roles_required=true
}

# database NAME [SECTION]
database() {
  local server
  server=openstack:$password@127.0.0.1:$(port_of "$dir" mariadb)
  section "${2:-database}" "connection=mysql+pymysql://$server/$1?charset=utf8"
}

transport_url() { echo "transport_url=rabbit://openstack:$password@127.0.0.1:$(port_of "$dir" rabbitmq)/"; }

# All run as root, so what they do with more rights needs neither sudo nor a filter.
privsep() {
  local conf=$1 name
  shift
  for name in "$@"; do section "$name" "helper_command=privsep-helper --config-file $conf"; done
}

# --- files -----------------------------------------------------------------------------------------------------------

write_rabbitmq_conf() {
  cat >"$dir/etc/rabbitmq.conf" <<END
listeners.tcp.default = 127.0.0.1:$(port_of "$dir" rabbitmq)
default_user = openstack
default_pass = $password
disk_free_limit.absolute = 50MB
log.console.level = info
END
}

write_keystone_conf() {
  {
    section DEFAULT use_stderr=true
    database keystone
    # Without a cache each check of a token costs nearly a second.
    section cache enabled=true backend=dogpile.cache.memory
    section identity password_hash_rounds=4
    section fernet_tokens "key_repository=$dir/keystone/fernet-keys"
    section fernet_receipts "key_repository=$dir/keystone/fernet-keys"
    section credential "key_repository=$dir/keystone/credential-keys"
  } >"$dir/etc/keystone.conf"
  # What `keystone-manage fernet_setup` does, which takes seconds to do it.
  local keys key
  for keys in fernet-keys credential-keys; do
    mkdir -p "$dir/keystone/$keys"
    chmod 700 "$dir/keystone/$keys"
    for key in 0 1; do
      head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' >"$dir/keystone/$keys/$key"
    done
  done
}

write_placement_conf() {
  {
    section DEFAULT use_stderr=true
    section api auth_strategy=keystone
    database placement placement_database
    keystone_authtoken
  } >"$dir/etc/placement.conf"
}

write_glance_conf() {
  {
    section DEFAULT use_stderr=true bind_host=127.0.0.1 "bind_port=$(port_of "$dir" glance)" workers=0 \
      "node_staging_uri=file://$dir/glance/staging" show_image_direct_url=true
    section paste_deploy flavor=keystone config_file=/usr/share/glance-common/glance-api-paste.ini
    section task "work_dir=$dir/glance/work"
    section oslo_concurrency "lock_path=$dir/glance/lock"
    database glance
    keystone_authtoken
  } >"$dir/etc/glance.conf"
}

# In RBD, so that a volume can be a clone of an image.
write_glance_conf_of_stack() {
  section glance_store stores=rbd default_store=rbd rbd_store_pool=images rbd_store_user=glance \
    "rbd_store_ceph_conf=$STACK_CEPH_CONF" rbd_thin_provisioning=true >>"$dir/etc/glance.conf"
}

write_neutron_conf() {
  {
    section DEFAULT use_stderr=true bind_host=127.0.0.1 "bind_port=$(port_of "$dir" neutron)" "$(transport_url)" \
      core_plugin=ml2 service_plugins=router,port_forwarding api_workers=0 rpc_workers=0 "state_path=$dir/neutron" \
      api_paste_config=/usr/share/neutron-common/api-paste.ini notify_nova_on_port_status_changes=false \
      notify_nova_on_port_data_changes=false
    section ml2 type_drivers=local tenant_network_types=local mechanism_drivers= extension_drivers=
    section oslo_concurrency "lock_path=$dir/neutron/lock"
    database neutron
    keystone_authtoken
  } >"$dir/etc/neutron.conf"
}

write_cinder_conf() {
  local conf=$dir/etc/cinder.conf
  {
    section DEFAULT use_stderr=true host=$kHost my_ip=127.0.0.1 "$(transport_url)" auth_strategy=keystone \
      enabled_backends=hdd,ssd default_volume_type=hdd "glance_api_servers=$(url glance)" "state_path=$dir/cinder" \
      "image_conversion_dir=$dir/cinder/conversion" api_paste_config=/usr/share/cinder-common/api-paste.ini \
      resource_query_filters_file=/etc/cinder/resource_filters.json rootwrap_config=/etc/cinder/rootwrap.conf \
      osapi_volume_listen=127.0.0.1 "osapi_volume_listen_port=$(port_of "$dir" cinder-api)" osapi_volume_workers=1 \
      report_interval=5 service_down_time=30 quota_volumes=1000 quota_gigabytes=100000 quota_snapshots=1000
    section oslo_concurrency "lock_path=$dir/cinder/lock"
    section coordination "backend_url=file://$dir/cinder/coordination"
    section nova interface=public "region_name=$kRegion" "$(as_service)"
    section service_user send_service_user_token=true "$(as_service)"
    privsep "$conf" cinder_sys_admin privsep_osbrick
    database cinder
    keystone_authtoken
  } >"$conf"
}

write_cinder_conf_of_stack() {
  local backend
  for backend in hdd ssd; do
    section "$backend" "volume_backend_name=$backend" volume_driver=cinder.volume.drivers.rbd.RBDDriver \
      "rbd_pool=volumes-$backend" "rbd_ceph_conf=$STACK_CEPH_CONF" "rbd_user=$STACK_CEPH_USER" \
      "rbd_secret_uuid=$STACK_SECRET_UUID" report_discard_supported=true rbd_flatten_volume_from_snapshot=false
  done >>"$dir/etc/cinder.conf"
}

write_nova_conf() {
  local conf=$dir/etc/nova.conf
  {
    # A guest of the tests has nobody in it who would answer a request to shut down.
    section DEFAULT use_stderr=true host=$kHost my_ip=127.0.0.1 "$(transport_url)" "state_path=$dir/nova" \
      "instances_path=$dir/nova/instances" enabled_apis=osapi_compute osapi_compute_listen=127.0.0.1 \
      "osapi_compute_listen_port=$(port_of "$dir" nova-api)" osapi_compute_workers=1 use_cow_images=false \
      report_interval=5 service_down_time=30 shutdown_timeout=5 graceful_shutdown_timeout=10 \
      rootwrap_config=/etc/nova/rootwrap.conf cpu_allocation_ratio=16 ram_allocation_ratio=8 disk_allocation_ratio=100 \
      reserved_host_memory_mb=0 reserved_host_disk_mb=0
    section wsgi api_paste_config=/usr/share/nova-common/api-paste.ini
    section oslo_concurrency "lock_path=$dir/nova/lock"
    section conductor workers=1
    section scheduler workers=1
    section quota instances=100 cores=100 ram=-1
    section vnc enabled=false
    section spice enabled=false
    section glance valid_interfaces=public "region_name=$kRegion"
    section placement valid_interfaces=public "region_name=$kRegion" "$(as_service)"
    section neutron valid_interfaces=public "region_name=$kRegion" "$(as_service)"
    # As somebody, so that nova-compute may speak with Cinder when it starts and no user's token is at hand.
    section cinder catalog_info=volumev3::publicURL "os_region_name=$kRegion" "$(as_service)"
    section service_user send_service_user_token=true "$(as_service)"
    privsep "$conf" nova_sys_admin privsep_osbrick vif_plug_linux_bridge_privileged vif_plug_ovs_privileged
    keystone_authtoken
  } >"$conf"
  # A compute node knows no database: given one, nova-compute asks it in vain.
  {
    database nova
    database nova_api api_database
  } >"$dir/etc/nova-databases.conf"
}

write_nova_conf_of_stack() {
  {
    section libvirt "connection_uri=$STACK_LIBVIRT_URI" "virt_type=${STACK_VIRT_TYPE:-qemu}" cpu_mode=none \
      images_type=flat inject_partition=-2 "rbd_user=$STACK_CEPH_USER" "rbd_secret_uuid=$STACK_SECRET_UUID" \
      wait_soft_reboot_seconds=5
    if [[ $driver == poolshift ]]; then
      # QEMU must be able to pass through to the overlays.
      section poolshift "library=$library" "guardian=$guardian" "state_dir=$dir/poolshift/state" \
        "overlay_dir=$dir/poolshift/overlays"
    fi
  } >>"$dir/etc/nova.conf"
  local class=libvirt.LibvirtDriver
  [[ $driver == stock ]] || class=poolshift.LibvirtDriver
  sed -i "0,/^\[DEFAULT\]/s//[DEFAULT]\ncompute_driver=$class/" "$dir/etc/nova.conf"
}

# --- services --------------------------------------------------------------------------------------------------------

# service NAME [VARIABLE=VALUE]... COMMAND...: with nothing of the caller's environment, in which there may be a proxy
# or another Python.
service() {
  local name=$1
  shift
  {
    echo '#!/bin/sh'
    printf 'exec /usr/bin/env -i'
    printf ' %q' "POOLSHIFT_CLOUD=$dir" "POOLSHIFT_CLOUD_SERVICE=$name" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
      LANG=C.UTF-8 "HOME=$dir" "TMPDIR=$dir/tmp" "$@"
    echo
  } >"$dir/services/$name"
  chmod 755 "$dir/services/$name"
}

# wsgi_service NAME SCRIPT THREADS [VARIABLE=VALUE]... uWSGI closes each connection, and a client that was not told so
# may send its next request into one that is about to be closed.
wsgi_service() {
  local name=$1 script=$2 threads=$3
  shift 3
  cat >"$dir/etc/$name.uwsgi.ini" <<END
[uwsgi]
plugins = python3
http-socket = 127.0.0.1:$(port_of "$dir" "$name")
wsgi-file = $script
processes = 1
threads = $threads
need-app = true
die-on-term = true
buffer-size = 65535
add-header = Connection: close
END
  service "$name" "$@" uwsgi --ini "$dir/etc/$name.uwsgi.ini"
}

write_services() {
  local etc=$dir/etc
  local nova=(--config-file "$etc/nova.conf" --config-file "$etc/nova-databases.conf")
  service mariadb mariadbd --no-defaults --user=mysql --datadir="$dir/mysql" --socket="$dir/mysql/mysql.sock" \
    --pid-file="$dir/mysql/pid" --tmpdir="$dir/tmp" --bind-address=127.0.0.1 --port="$(port_of "$dir" mariadb)" \
    --max-connections=500 --innodb-buffer-pool-size=256M --innodb-flush-log-at-trx-commit=0 --skip-innodb-doublewrite
  local erlang='+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}'
  # An epmd of its own too. No busy waiting: the cores are wanted by others.
  service rabbitmq HOME="$dir/rabbitmq" RABBITMQ_NODENAME=openstack@localhost RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_CONFIG_FILE="$etc/rabbitmq.conf" RABBITMQ_MNESIA_BASE="$dir/rabbitmq/mnesia" \
    RABBITMQ_LOG_BASE="$dir/rabbitmq/log" RABBITMQ_LOGS=- RABBITMQ_ENABLED_PLUGINS_FILE="$dir/rabbitmq/plugins" \
    RABBITMQ_PID_FILE="$dir/rabbitmq/pid" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
    RABBITMQ_NODE_PORT="$(port_of "$dir" rabbitmq)" RABBITMQ_DIST_PORT="$(port_of "$dir" rabbitmq-dist)" \
    ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$(port_of "$dir" epmd)" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="$erlang" \
    setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server
  wsgi_service keystone /usr/bin/keystone-wsgi-public 2 OS_KEYSTONE_CONFIG_FILES="$etc/keystone.conf"
  wsgi_service placement /usr/bin/placement-api 2 OS_PLACEMENT_CONFIG_DIR="$etc"
  service glance glance-api --config-file "$etc/glance.conf"
  # Not neutron-server, whose periodic tasks ask for ports before anything has made that possible (see wake_neutron).
  wsgi_service neutron /usr/bin/neutron-api 1 OS_NEUTRON_CONFIG_FILES="$etc/neutron.conf"
  service cinder-api cinder-api --config-file "$etc/cinder.conf"
  service cinder-scheduler cinder-scheduler --config-file "$etc/cinder.conf"
  service cinder-volume cinder-volume --config-file "$etc/cinder.conf"
  service nova-api nova-api "${nova[@]}"
  service nova-conductor nova-conductor "${nova[@]}"
  service nova-scheduler nova-scheduler "${nova[@]}"
  service nova-compute "${compute_environment[@]}" nova-compute --config-file "$etc/nova.conf"
}

# Nova loads only what is in nova.virt, and no file of ours belongs into the system's folders: a folder that comes first
# and declares the same namespace.
write_python_path() {
  local namespace
  for namespace in nova nova/virt; do
    mkdir -p "$dir/python/$namespace"
    echo "__import__('pkg_resources').declare_namespace(__name__)" >"$dir/python/$namespace/__init__.py"
  done
  ln -s "$shim/nova/virt/poolshift" "$dir/python/nova/virt/poolshift"
  ln -s "$here/die_at.py" "$dir/python/sitecustomize.py"
  mkdir -p "$dir/bin"
  cat >"$dir/bin/poolshift-nova-doctor" <<END
#!/bin/sh
export PYTHONPATH='$dir/python'
exec /usr/bin/python3 -m nova.virt.poolshift.doctor "\$@"
END
  chmod 755 "$dir/bin/poolshift-nova-doctor"
}
