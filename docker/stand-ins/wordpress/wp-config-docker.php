<?php
// Settings from the environment, under the names of the official image.
function of_environment($name, $otherwise) {
    return getenv($name) === false ? $otherwise : getenv($name);
}
define('DB_HOST', of_environment('WORDPRESS_DB_HOST', 'mysql'));
define('DB_NAME', of_environment('WORDPRESS_DB_NAME', 'wordpress'));
define('DB_USER', of_environment('WORDPRESS_DB_USER', ''));
define('DB_PASSWORD', of_environment('WORDPRESS_DB_PASSWORD', ''));
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
foreach (['AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT', 'SECURE_AUTH_SALT', 'LOGGED_IN_SALT', 'NONCE_SALT'] as $name) {
    define($name, 'put your unique phrase here');
}
$table_prefix = of_environment('WORDPRESS_TABLE_PREFIX', 'wp_');
eval(of_environment('WORDPRESS_CONFIG_EXTRA', ''));
if (!defined('ABSPATH')) {
    define('ABSPATH', __DIR__ . '/');
}
require_once ABSPATH . 'wp-settings.php';
