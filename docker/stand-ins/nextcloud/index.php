<?php
require 'version.php';
echo 'open: ', implode('.', $OC_Version);
