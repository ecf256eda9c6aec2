<?php
// Brings the database to the schema of the files in the working directory. WordPress ends with 0 when it stops early,
// and says nothing of a query that failed: so this ends with 1 unless it has seen the new version in the database.
$status = 1;
register_shutdown_function(function () use (&$status) {
    exit($status);
});
// As wp-admin/upgrade.php does: without plugins, and in spite of the maintenance mode.
define('WP_INSTALLING', true);
require './wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
if (!is_blog_installed()) {
    echo "not installed yet: nothing to migrate\n";
    $status = 0;
    exit;
}
wp_upgrade();
$version = $wpdb->get_var("SELECT option_value FROM $wpdb->options WHERE option_name = 'db_version'");
if ((int) $version === (int) $wp_db_version) {
    echo "the database is at $version\n";
    $status = 0;
} else {
    echo "the database is at $version, not at $wp_db_version: $wpdb->last_error\n";
}
