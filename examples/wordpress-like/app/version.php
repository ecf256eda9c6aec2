<?php $wp_version = "1.0";
